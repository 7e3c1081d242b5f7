// The gateway's API, as the pages use it.

import { say } from "./words.js";

// A server beyond loopback asks for a key, which lives as long as the tab.
async function request(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem("key");
    const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
    const reply = await fetch(path, { ...options, headers }).catch((error) => {
      throw error.name === "AbortError" ? error : new Error(say.unreachable);
    });
    if (reply.status !== 401) return reply;
    const given = window.prompt(say.key)?.trim();
    if (!given) return reply;
    sessionStorage.setItem("key", given);
  }
}

async function get(path) {
  const reply = await request(path);
  if (!reply.ok) throw new Error((await reply.json()).error.message);
  return reply.json();
}

export const about = () => get("/v1/assistant");
export const post = (id) => get(`/v1/posts/${encodeURIComponent(id)}`);
export const search = async (text, limit) =>
  (await get(`/v1/search?limit=${limit}&q=${encodeURIComponent(text.slice(0, 300))}`)).data;

export async function judge(feedback) {
  const headers = { "Content-Type": "application/json" };
  const reply = await request("/v1/feedback", { method: "POST", headers, body: JSON.stringify(feedback) });
  if (!reply.ok) throw new Error((await reply.json()).error.message);
}

// Yields the events of a streamed answer; aborting the signal stops the model too.
export async function* ask(model, messages, sampling, signal) {
  const reply = await request("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ model, messages, stream: true, ...sampling }),
    signal,
  });
  if (!reply.ok) throw new Error((await reply.json()).error.message);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (held + value).split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}
