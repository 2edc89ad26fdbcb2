// The conversation: what was said, the answer that is coming, and how to stop it.

import { blocks, toNodes } from "./markdown.js";
import { events } from "./sse.js";

// The body of a request, from the fields of the page. An empty number is left to the server's default.
export function requestBody(model, history, settings) {
  const messages = history.map(({ role, content }) => ({ role, content }));
  if (settings.system.trim()) messages.unshift({ role: "system", content: settings.system });
  const body = { model, messages, stream: true, stream_options: { include_usage: true } };
  for (const [name, value] of [
    ["temperature", settings.temperature], ["top_p", settings.topP], ["max_tokens", settings.maxTokens],
  ]) {
    if (value !== "") body[name] = Number(value);
  }
  return body;
}

export class Chat {
  #element;
  #history = [];
  #abort = null;

  constructor(element) {
    this.#element = element;
    element("stop").addEventListener("click", () => this.stop());
    element("clear").addEventListener("click", () => this.clear());
  }

  get isBusy() {
    return this.#abort !== null;
  }

  stop() {
    this.#abort?.abort();
  }

  clear() {
    this.stop();
    this.#history = [];
    this.#element("messages").replaceChildren();
    this.#element("speed").textContent = "";
    this.#element("prompt").focus();
  }

  // Sends a message and shows the answer as it comes. Throws what is not the conversation's own affair.
  async send(text, model, settings, key) {
    const history = this.#history;
    history.push({ role: "user", content: text });
    this.#show("user", text);
    const shown = this.#show("assistant", "");
    const answer = { role: "assistant", content: "" };
    const abort = (this.#abort = new AbortController());
    this.#setBusy(true);
    const started = performance.now();
    let finish = null;
    let usage = null;
    let failure = null;
    let frame = 0;
    const draw = () => {
      frame = 0;
      this.#fill(shown, answer.content);
    };
    try {
      const body = requestBody(model, history, settings);
      for await (const chunk of events("/v1/chat/completions", { key, body, signal: abort.signal })) {
        usage = chunk.usage ?? usage;
        finish = chunk.choices[0]?.finish_reason ?? finish;
        answer.content += chunk.choices[0]?.delta.content ?? "";
        frame ||= requestAnimationFrame(draw);
      }
    } catch (error) {
      if (!abort.signal.aborted) failure = error;
    } finally {
      cancelAnimationFrame(frame);
      draw();
      this.#abort = null;
      this.#setBusy(false);
    }
    // What was not answered at all is not part of the conversation; it can be sent again.
    if (answer.content) history.push(answer);
    else history.pop();
    if (failure) {
      shown.classList.add("failed");
      shown.append(failure.message);
      if (failure.status === 401) throw failure;
    } else {
      this.#element("speed").textContent = summary(usage, finish, (performance.now() - started) / 1000);
    }
  }

  #setBusy(busy) {
    this.#element("send").disabled = busy;
    this.#element("stop").disabled = !busy;
  }

  #show(role, text) {
    const message = document.createElement("article");
    message.className = `message ${role}`;
    this.#fill(message, text);
    this.#element("messages").append(message);
    message.scrollIntoView({ block: "end" });
    return message;
  }

  #fill(message, text) {
    const list = this.#element("messages");
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
    const name = document.createElement("h3");
    name.textContent = message.classList.contains("user") ? "You" : "Model";
    message.replaceChildren(name, ...toNodes(blocks(text)));
    if (atEnd) list.scrollTop = list.scrollHeight;
  }
}

export function summary(usage, finish, seconds) {
  if (!usage) return "stopped";
  const tokens = usage.completion_tokens;
  const end = finish === "length" ? "; cut off at max tokens" : "";
  return `${tokens} tokens in ${seconds.toFixed(1)} s, ${(tokens / seconds).toFixed(1)} per second${end}`;
}
