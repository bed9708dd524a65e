"""Hugging Face hub: download `hf://OWNER/NAME[@REVISION][/file or folder]`, upload an export; without torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from utils.errors import UserError

HUB_PREFIX = "hf://"
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_ADDRESS = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[^/]+))?(/(?P<inside>.*))?")


@dataclass(frozen=True)
class HubAddress:
    """A repository, and a path within it ("" for the root)."""

    name: str
    revision: str | None
    inside: str

    @classmethod
    def parse(cls, source: str) -> HubAddress:
        match = _ADDRESS.fullmatch(source)
        if not match:
            raise UserError(
                f"{source}: is not an address on the hub; write hf://OWNER/NAME or hf://OWNER/NAME/file"
            )
        return cls(match["name"], match["revision"], (match["inside"] or "").strip("/"))

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{HUB_PREFIX}{self.name}{revision}"

    def download(self, file: str) -> Path | None:
        """Download a file of the repository; returns its local path, or None if it does not exist."""
        hub = hub_library()
        with self._errors_for_users():
            try:
                return Path(hub.hf_hub_download(repo_id=self.name, filename=file, revision=self.revision))
            except hub.errors.LocalEntryNotFoundError:
                raise  # not cached on this machine, and the hub could not be reached
            except (hub.errors.EntryNotFoundError, FileNotFoundError):
                return None

    def files(self) -> list[str]:
        """List all files of the repository."""
        with self._errors_for_users():
            return list(hub_library().list_repo_files(self.name, revision=self.revision))

    @contextmanager
    def _errors_for_users(self) -> Iterator[None]:
        errors = hub_library().errors
        try:
            yield
        except errors.RepositoryNotFoundError as error:
            raise UserError(
                f"{self}: the hub has no such model repository, or it is private or gated: check the name, accept its "
                "terms in the browser, log in with `hf auth login`"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise UserError(f"{self}: the repository has no revision {self.revision}") from error
        except errors.HFValidationError as error:
            raise UserError(f"{self}: {error}") from error
        # OSError and the bases of HfHubHTTPError, because the HTTP library's errors differ between hub versions.
        except (OSError, *errors.HfHubHTTPError.__bases__) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"{self}: the hub cannot be reached ({reason}); check the connection, or download the files elsewhere "
                "and give their folder"
            ) from error


def check_repository_name(name: str, key: str) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(f"{key}={name}: must be OWNER/NAME")


def upload_files(folder: Path, files: Sequence[str], name: str, message: str) -> str:
    """Create the model repository `name` if needed and upload files of the folder; returns its web address.

    Raises UserError if the hub rejects the upload or cannot be reached; the folder is not changed.
    """
    hub = hub_library()
    try:
        address = hub.create_repo(name, repo_type="model", exist_ok=True)
        hub.upload_folder(
            folder_path=str(folder),
            repo_id=name,
            repo_type="model",
            allow_patterns=list(files),
            commit_message=message,
        )
    except (OSError, ValueError, *hub.errors.HfHubHTTPError.__bases__) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"push_to_hub={name}: the upload failed ({reason}); log in with `hf auth login` and try again. "
            f"The export itself is complete in {folder}"
        ) from error
    return str(address)


def hub_library() -> ModuleType:
    """Import huggingface_hub and silence its warnings about retries, because the final error has all information.

    The environment variable `HF_HUB_VERBOSITY` overrides this. Raises UserError if the package is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
        from huggingface_hub.utils import logging
    except ImportError as error:
        raise UserError(
            f"the hub needs the package huggingface_hub ({error}): pip install huggingface_hub"
        ) from None
    if not os.environ.get("HF_HUB_VERBOSITY"):
        logging.set_verbosity_error()
    return huggingface_hub
