// The panel of deployments: where each stands, what was decided, and buttons that need the admin key.

import { request } from "./sse.js";

const POLL_MILLISECONDS = 2000;
const NUM_DECISIONS = 8;
const COLUMNS = ["Version", "Share", "Running", "Succeeded", "Failed", "Mean", "Score"];

const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)}%`;

// A deployment's state in a few words.
export function standing({ strategy, state }) {
  switch (strategy.type) {
    case "canary":
      return `${state.phase.replaceAll("_", " ")}, ${Number(state.percent.toPrecision(4))}%`
        + (state.reason ? `: ${state.reason}` : "");
    case "blue-green":
      return `${state.active} is active`;
    case "shadow":
      return `${state.shadow} in the shadow of ${state.live}`
        + (state.agreement === null ? "" : `: ${percent(state.agreement)} of ${state.compared} answers agree`);
    default: {
      const best = Object.entries(state.arms).reduce((a, b) => (b[1].mean > a[1].mean ? b : a))[0];
      return state.pinned ? `${state.pinned} has all` : `${best} seems best`;
    }
  }
}

// The cells of a version's row, as COLUMNS has them.
export function cells(version) {
  const { succeeded, failed, hung } = version.requests;
  return [
    version.id, percent(version.share), version.pending, succeeded, failed + hung,
    version.mean_seconds === null ? "–" : `${(1000 * version.mean_seconds).toPrecision(3)} ms`,
    version.mean_score === null ? "–" : version.mean_score.toFixed(2),
  ].map(String);
}

function node(tag, text, ...children) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

// One deployment on the page. Buttons stay what they are, so that whoever is on one stays there.
class Card {
  #state = node("p");
  #rows = node("tbody");
  #bars = node("div");
  #actions = "";
  #buttons = node("div");

  constructor(name, act) {
    this.act = act;
    this.#buttons.className = "row";
    this.#bars.className = "bars";
    this.#bars.setAttribute("aria-hidden", "true"); // the table says the same
    const head = node("thead", "", node("tr", "", ...COLUMNS.map((column) => {
      const cell = node("th", column);
      cell.scope = "col";
      return cell;
    })));
    const table = node("table", "", head, this.#rows);
    this.element = node("article", "", node("h3", name), this.#state, this.#bars, table, this.#buttons);
  }

  show(deployment) {
    this.#state.textContent = standing(deployment);
    this.element.classList.toggle("bad", deployment.state.phase === "rolled_back");
    this.#rows.replaceChildren(...deployment.versions.map((version) => {
      const [id, ...rest] = cells(version);
      const head = node("th", id);
      head.scope = "row";
      return node("tr", "", head, ...rest.map((text) => node("td", text)));
    }));
    this.#bars.replaceChildren(...deployment.versions.map((version) => {
      const bar = node("meter");
      bar.value = version.share;
      bar.title = `${version.id}: ${percent(version.share)}`;
      return bar;
    }));
    if (this.#actions === String(deployment.actions)) return;
    this.#actions = String(deployment.actions);
    this.#buttons.replaceChildren(...deployment.actions.map((action) => {
      const button = node("button", action);
      button.type = "button";
      button.addEventListener("click", () => this.act(action));
      return button;
    }));
  }
}

export class DeploymentsView {
  #element;
  #key; // gives the key that the page was opened with
  #adminKey = null;
  #cards = new Map();
  #timer = null;

  constructor(element, key) {
    this.#element = element;
    this.#key = key;
    element("admin-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#adminKey = element("admin-key").value;
      element("admin-key").value = "";
      this.poll();
    });
    element("deployments-panel").addEventListener("toggle", () => this.poll());
    document.addEventListener("visibilitychange", () => this.poll());
  }

  // Asks again and again while somebody looks.
  async poll() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (document.hidden || !this.#element("deployments-panel").open) return;
    try {
      await this.#ask();
    } catch (error) {
      this.#fail(error);
      if (error.status === 401 || error.status === 403) return; // the form goes on
    }
    if (this.#timer === null) this.#timer = setTimeout(() => this.poll(), POLL_MILLISECONDS);
  }

  async #ask() {
    const options = { key: this.#adminKey ?? this.#key() };
    const [{ deployments }, { entries }] = await Promise.all(
      ["/admin/deployments", `/admin/audit?limit=${NUM_DECISIONS}`].map(async (path) => (await request(path, options)).json()),
    );
    this.#element("admin-form").hidden = true;
    this.#say(deployments.length ? "" : "There are no deployments.");
    this.#show(deployments);
    this.#element("decisions").replaceChildren(...entries.map(({ time, deployment, who, what, why }) => {
      const when = new Date(1000 * time).toLocaleTimeString();
      return node("li", `${when} ${deployment}: ${what.replaceAll("_", " ")} (${who}): ${why}`);
    }));
  }

  #show(deployments) {
    const names = new Set(deployments.map(({ name }) => name));
    for (const [name, card] of this.#cards) {
      if (names.has(name)) continue;
      card.element.remove();
      this.#cards.delete(name);
    }
    for (const deployment of deployments) {
      const { name } = deployment;
      if (!this.#cards.has(name)) {
        const card = new Card(name, (action) => this.#act(name, action));
        this.#cards.set(name, card);
        this.#element("deployments").append(card.element);
      }
      this.#cards.get(name).show(deployment);
    }
  }

  async #act(name, action) {
    if (!confirm(`${action} ${name}?`)) return;
    const path = `/admin/deployments/${encodeURIComponent(name)}/${action}`;
    try {
      await request(path, { key: this.#adminKey ?? this.#key(), body: { why: "from the web page" } });
    } catch (error) {
      this.#fail(error);
      return;
    }
    this.poll();
  }

  #fail(error) {
    if (error.status === 401 || error.status === 403) {
      this.#adminKey = null;
      this.#element("admin-form").hidden = false;
      this.#say("Deployments need the admin key.");
    } else {
      this.#say(error.message);
    }
  }

  #say(text) {
    const said = this.#element("deployments-text");
    if (said.textContent !== text) said.textContent = text; // else a screen reader repeats it
  }
}
