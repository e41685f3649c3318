// A completion as it is written, with nothing but fetch: `node fetch.mjs`, Node 18 or newer.
// `complete` is the same in a page.
const base = process.env.OCTAVO_BASE_URL ?? "http://127.0.0.1:8000/v1";

/** The texts of a streamed completion, piece by piece. Throws if it breaks off. */
async function* complete(request) {
  const response = await fetch(`${base}/completions`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...request, stream: true }),
  });
  if (!response.ok) {
    throw new Error(`HTTP ${response.status}: ${await response.text()}`);
  }
  let rest = "";
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue; // comments keep the connection alive
      const data = line.slice("data: ".length).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      for (const choice of chunk.choices) yield choice.text;
    }
  }
  throw new Error("the stream ended before its end mark");
}

const request = {
  model: "smollm2-135m-instruct",
  prompt: process.argv[2] ?? "The capital of France is",
  max_tokens: 16,
  temperature: 0,
};
for await (const text of complete(request)) {
  process.stdout.write(text);
}
console.log();
