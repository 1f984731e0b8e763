// The HTTP API: one call for JSON, one for a stream of server-sent events.

// What the server refused, in its own words; param is the field it names, if it does.
export class ApiError extends Error {
  constructor(error) {
    super(error.message ?? "the server gave no reason");
    this.param = error.param ?? null;
  }
}

async function ask(path, key, body, signal) {
  const headers = { ...(key && { authorization: `Bearer ${key}` }), ...(body && { "content-type": "application/json" }) };
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new ApiError(told.error ?? { message: `the server answered ${response.status} ${response.statusText}` });
}

export async function get(path, key) {
  return (await ask(path, key)).json();
}

// The JSON of every event until [DONE]. An error in the stream, or its early end, is thrown.
export async function* stream(path, key, body, signal) {
  const response = await ask(path, key, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiError({ message: "the stream ended before the text did" });
    const events = (rest + value).split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue;
      const message = JSON.parse(data);
      if (message.error) throw new ApiError(message.error);
      yield message;
    }
  }
}
