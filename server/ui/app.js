// Wires the page: the key, the models, the two views.

import { Chat } from "./chat.js";
import { DeploymentsView } from "./deployments.js";
import { LiveView } from "./live.js";
import { request } from "./sse.js";

const KEY = "quire-api-key";

function element(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element ${id}`);
  return found;
}

const chat = new Chat(element);
const live = new LiveView(element);
const key = () => sessionStorage.getItem(KEY);
new DeploymentsView(element, key);

function setConnection(text, good) {
  const status = element("connection");
  if (status.textContent !== text) status.textContent = text; // else a screen reader repeats it
  status.classList.toggle("bad", !good);
}

function fail(error) {
  if (error.status === 401) {
    sessionStorage.removeItem(KEY);
    element("key-form").hidden = false;
    element("key").focus();
    setConnection("an API key is needed", false);
  } else {
    setConnection(error.message, false);
  }
}

function watch() {
  live.watch(key(), setConnection).catch(fail);
}

async function start() {
  const given = key();
  try {
    const { data } = await (await request("/v1/models", { key: given })).json();
    if (key() !== given) return;
    element("model").replaceChildren(...data.map(({ id }) => new Option(id, id)));
    element("key-form").hidden = true;
    watch();
  } catch (error) {
    if (key() !== given) return; // another key has been entered, and is being tried
    fail(error);
    if (error.status !== 401) setTimeout(start, 2000);
  }
}

function show(view) {
  document.querySelector("main").dataset.view = view;
  for (const name of ["chat", "engine"]) element(`show-${name}`).setAttribute("aria-pressed", String(name === view));
}

element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, element("key").value);
  element("key").value = "";
  start();
});

element("chat-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = element("prompt");
  const text = prompt.value.trim();
  if (!text || chat.isBusy) return;
  prompt.value = "";
  const settings = {
    temperature: element("temperature").value,
    topP: element("top-p").value,
    maxTokens: element("max-tokens").value,
    system: element("system").value,
  };
  chat.send(text, element("model").value, settings, key()).catch(fail);
});

element("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    element("chat-form").requestSubmit();
  }
});

for (const name of ["chat", "engine"]) element(`show-${name}`).addEventListener("click", () => show(name));

// Nobody looks at a hidden tab, so the engine need not tell it anything.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) live.stop();
  else if (element("model").length) watch();
});

show("chat");
start();
