from pydantic import Field

from models.recursive import RecursiveConfig, RecursiveModel


class MyModel(RecursiveModel):
    class Config(RecursiveConfig):
        answer_cycles: int = Field(default=2, ge=1)

    config: Config

    def cycle(self, state, x):
        y, z = state
        for _ in range(self.L_cycles):
            z = self.f(self.L_level, z, y + x)
        for _ in range(self.config.answer_cycles):
            y = self.f(self.L_level, y, z)
        return y, z
