"use strict";
// Run supervision steps of the ONNX model in a worker, so that the page stays responsive. Model and ONNX Runtime arrive
// as scripts with compressed base64, because a page that is opened from disk cannot fetch files.

const solver = (() => {
  let worker = null, answerTo = null;

  function addScript(file) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = file;
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${file} cannot be loaded: the folder of the page is incomplete`));
      document.head.append(script);
    });
  }

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  // One request at a time: `{name, ...}` in, `{value}` or `{error}` out.
  function ask(request, transfer = []) {
    return new Promise((resolve, reject) => {
      answerTo = ({ value, error }) => (error === undefined ? resolve(value) : reject(new Error(error)));
      worker.postMessage(request, transfer);
    });
  }

  // Load ONNX Runtime and the model. Rejects with an Error that says what is missing.
  async function load() {
    for (const missing of ["DecompressionStream", "WebAssembly", "Worker"].filter((name) => !(name in window))) {
      throw new Error(`this browser has no ${missing}: use a newer one`);
    }
    await Promise.all([addScript("runtime.js"), addScript("model.js")]);
    const [script, glue, wasm, model] = await Promise.all(
      [runtime.script, runtime.glue, runtime.wasm, packedModel].map(unpacked));
    const source = new Blob([script, `\n(${runWorker})();`], { type: "text/javascript" });
    worker = new Worker(URL.createObjectURL(source));
    worker.onmessage = ({ data }) => answerTo(data);
    worker.onerror = (event) => answerTo({ error: event.message || "the worker of the page cannot start" });
    await ask({ name: "load", glue, wasm, model, description: page.model }, [glue, wasm, model]);
    runtime.wasm = packedModel = null; // frees 5 MB of text
  }

  // Yield {number, answer, confidence, haltProbability, saysStop} after each step.
  async function* solve(question, identifier, numSteps) {
    await ask({ name: "start", question, identifier });
    for (let number = 1; number <= numSteps; number++) yield { number, ...(await ask({ name: "step" })) };
  }

  return { load, solve };
})();

// The worker's program, after the library of ONNX Runtime (`ort`). It is sent as text and sees nothing of this page.
function runWorker() {
  let session, description, feeds;

  async function load({ glue, wasm, model, description: described }) {
    ort.env.wasm.numThreads = 1; // threads need HTTP headers that static hosts do not send
    // Made here, because a worker of a page from disk may not import what the page made.
    ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([glue], { type: "text/javascript" })) };
    ort.env.wasm.wasmBinary = wasm;
    description = described;
    session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
  }

  function start({ question, identifier }) {
    feeds = { inputs: new ort.Tensor("int32", Int32Array.from(question), [1, question.length]) };
    if (description.takes_identifiers) {
      feeds.puzzle_identifiers = new ort.Tensor("int32", Int32Array.of(identifier), [1]);
    }
    for (const [name, { shape, values }] of Object.entries(description.latents)) {
      const flat = Float32Array.from(values.flat()), all = new Float32Array(shape[1] * shape[2]);
      for (let offset = 0; offset < all.length; offset += flat.length) all.set(flat, offset);
      feeds[name] = new ort.Tensor("float32", all, [1, shape[1], shape[2]]);
    }
  }

  async function step() {
    const outputs = await session.run(feeds);
    for (const name of Object.keys(description.latents)) feeds[name] = outputs[`next_${name}`];
    const logits = outputs.logits.data, size = outputs.logits.dims[2], answer = [];
    for (let offset = 0; offset < logits.length; offset += size) {
      let best = 0;
      for (let token = 1; token < size; token++) if (logits[offset + token] > logits[offset + best]) best = token;
      answer.push(best);
    }
    const qHalt = outputs.q_halt.data[0], against = outputs.q_continue ? outputs.q_continue.data[0] : 0;
    const haltProbability = 1 / (1 + Math.exp(-qHalt));
    return { answer, confidence: Array.from(outputs.confidence.data), haltProbability, saysStop: qHalt > against };
  }

  const program = { load, start, step };
  self.onmessage = async ({ data }) => {
    try {
      self.postMessage({ value: await program[data.name](data) });
    } catch (error) {
      self.postMessage({ error: String(error?.message ?? error) });
    }
  };
}
