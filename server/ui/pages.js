// The pages of the KV cache: their states, and their picture, of which only what changes is drawn anew.

export const LETTERS = "fcos";
export const NAMES = ["free", "cached", "owned", "shared"];

export class PageMap {
  states = new Uint8Array(0);
  counts = [0, 0, 0, 0];

  // Takes the pairs [first page, letters] of an event. Returns the pages to draw, or null for all.
  apply(numPages, runs) {
    const all = numPages !== this.states.length;
    if (all) {
      this.states = new Uint8Array(numPages);
      this.counts = [numPages, 0, 0, 0];
    }
    const changed = [];
    for (const [first, letters] of runs) {
      for (let i = 0; i < letters.length && first + i < numPages; i++) {
        const state = LETTERS.indexOf(letters[i]);
        const before = this.states[first + i];
        if (state < 0) throw new RangeError(`page ${first + i} has the unknown state ${letters[i]}`);
        if (state === before) continue;
        this.counts[before]--;
        this.counts[state]++;
        this.states[first + i] = state;
        changed.push(first + i);
      }
    }
    return all ? null : changed;
  }
}

// The side of a page's square, in whole device pixels: as large as fits, so that none is blurred.
export function layout(numPages, width, height) {
  let side = Math.max(1, Math.floor(Math.sqrt((width * height) / Math.max(1, numPages))));
  while (side > 1 && Math.ceil(numPages / Math.floor(width / side)) * side > height) side--;
  side = Math.min(side, 24);
  const columns = Math.max(1, Math.floor(width / side));
  return { side, columns, rows: Math.ceil(numPages / columns) };
}

export class PagePicture {
  #canvas;
  #map;
  #layout = null;
  #colours = [];

  constructor(canvas, map) {
    this.#canvas = canvas;
    this.#map = map;
    new ResizeObserver(() => this.drawAll()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.drawAll());
  }

  drawAll() {
    const width = Math.floor(this.#canvas.clientWidth * devicePixelRatio);
    if (!width || !this.#map.states.length) return;
    const style = getComputedStyle(document.documentElement);
    this.#colours = NAMES.map((name) => style.getPropertyValue(`--${name}`).trim());
    this.#layout = layout(this.#map.states.length, width, 420 * devicePixelRatio);
    const height = this.#layout.rows * this.#layout.side;
    this.#canvas.width = width;
    this.#canvas.height = height;
    this.#canvas.style.height = `${height / devicePixelRatio}px`;
    this.#draw(this.#map.states.keys());
  }

  draw(pages) {
    if (pages === null || this.#layout === null) this.drawAll();
    else this.#draw(pages);
  }

  // One colour after the other: setting a canvas' colour costs more than a square.
  #draw(pages) {
    const context = this.#canvas.getContext("2d");
    const { side, columns } = this.#layout;
    const size = side > 3 ? side - 1 : side;
    const byState = [[], [], [], []];
    for (const page of pages) byState[this.#map.states[page]].push(page);
    byState.forEach((group, state) => {
      context.fillStyle = this.#colours[state];
      for (const page of group) {
        context.fillRect((page % columns) * side, Math.floor(page / columns) * side, size, size);
      }
    });
  }
}
