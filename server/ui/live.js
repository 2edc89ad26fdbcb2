// The view of the engine: figures, latencies, the curve of the rate, and the cache.

import { events } from "./sse.js";
import { NAMES, PageMap, PagePicture } from "./pages.js";

const CURVE_SECONDS = 60;
const RATE_SECONDS = 2;
const RETRY_MILLISECONDS = 2000;

// Counters over time; a rate is the difference over the last two seconds, and a restart begins anew.
export class Rates {
  #states = [];

  add(state) {
    const last = this.#states.at(-1);
    if (last && state.num_steps < last.num_steps) this.#states = [];
    this.#states.push(state);
    while (state.time - this.#states[0].time > RATE_SECONDS && this.#states.length > 2) this.#states.shift();
  }

  of(counter) {
    const first = this.#states[0];
    const last = this.#states.at(-1);
    return last && last.time > first.time ? (last[counter] - first[counter]) / (last.time - first.time) : 0;
  }
}

export function milliseconds(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const value = seconds * 1000;
  return value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en");
}

export class LiveView {
  #element;
  #rates = new Rates();
  #curve = [];
  #map = new PageMap();
  #picture;
  #abort = null;

  constructor(element) {
    this.#element = element;
    this.#picture = new PagePicture(element("pages"), this.#map);
  }

  // Watches until `stop`; comes back after the server was away. Throws what a retry cannot mend.
  async watch(key, onConnection) {
    this.stop();
    const abort = (this.#abort = new AbortController());
    while (!abort.signal.aborted) {
      try {
        for await (const state of events("/engine/live", { key, signal: abort.signal })) {
          onConnection(state.ready ? "connected" : "the engine is starting", state.ready);
          this.#show(state);
        }
        onConnection("the server has ended the live view", false);
      } catch (error) {
        if (abort.signal.aborted) return;
        if (error.status === 401) throw error;
        onConnection(`no connection: ${error.message}`, false);
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MILLISECONDS));
    }
  }

  stop() {
    this.#abort?.abort();
    this.#abort = null;
  }

  #show(state) {
    const text = (id, value) => {
      this.#element(id).textContent = value;
    };
    this.#rates.add(state);
    const rate = this.#rates.of("generation_tokens");
    text("rate", Math.round(rate).toLocaleString("en"));
    text("prompt-rate", Math.round(this.#rates.of("prompt_tokens")).toLocaleString("en"));
    text("running", state.num_running);
    text("waiting", state.num_waiting);
    text("preemptions", state.num_preemptions);
    const queries = state.prefix_cache_queries;
    text("hits", queries ? `${Math.round((100 * state.prefix_cache_hits) / queries)}%` : "–");
    for (const [id, times] of [["first", state.first_token], ["next", state.next_token]]) {
      for (const percentile of ["p50", "p90", "p99"]) text(`${id}-${percentile}`, milliseconds(times[percentile]));
    }
    const used = state.num_blocks - state.num_free_blocks;
    text("cache-text", `${used.toLocaleString("en")} of ${state.num_blocks.toLocaleString("en")} pages are held by `
      + `requests; a page has ${state.block_size} tokens`);
    this.#picture.draw(this.#map.apply(state.num_blocks, state.pages));
    NAMES.forEach((name, i) => text(`count-${name}`, this.#map.counts[i].toLocaleString("en")));
    this.#drawCurve(state.time, rate);
  }

  #drawCurve(time, rate) {
    this.#curve.push([time, rate]);
    while (time - this.#curve[0][0] > CURVE_SECONDS) this.#curve.shift();
    const canvas = this.#element("rate-chart");
    const width = (canvas.width = Math.floor(canvas.clientWidth * devicePixelRatio));
    const height = (canvas.height = Math.floor(canvas.clientHeight * devicePixelRatio));
    if (!width || !height) return;
    const most = Math.max(1, ...this.#curve.map(([, value]) => value));
    const context = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    context.strokeStyle = style.getPropertyValue("--accent").trim();
    context.fillStyle = style.getPropertyValue("--soft").trim();
    context.lineWidth = 2 * devicePixelRatio;
    context.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    context.beginPath();
    for (const [when, value] of this.#curve) {
      context.lineTo(width * (1 - (time - when) / CURVE_SECONDS), (height - 3) * (1 - value / most) + 2);
    }
    context.stroke();
    context.fillText(`${Math.round(most)} at most`, 4, 14 * devicePixelRatio);
  }
}
