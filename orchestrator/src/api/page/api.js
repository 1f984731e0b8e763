// Calls of the HTTP API: one for JSON, one for a stream of server-sent events.

// An error of the server with its message. `param` is the field that it names, or null.
export class ApiError extends Error {
  constructor(error) {
    super(error.message ?? "the server sent no message");
    this.param = error.param ?? null;
  }
}

async function send(path, key, body, signal) {
  const headers = { ...(key && { authorization: `Bearer ${key}` }), ...(body && { "content-type": "application/json" }) };
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw new ApiError(answer.error ?? { message: `the server answered ${response.status} ${response.statusText}` });
}

export async function get(path, key) {
  return (await send(path, key)).json();
}

// Yields the JSON of every event until [DONE]. Throws if the stream contains an error or ends early.
export async function* stream(path, key, body, signal) {
  const response = await send(path, key, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiError({ message: "the stream ended before the text was complete" });
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
