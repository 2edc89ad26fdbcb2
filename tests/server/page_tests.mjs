// The page's modules where they need no browser; test_page.py runs this file.

import assert from "node:assert/strict";
import test from "node:test";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("../../server/ui/", import.meta.url));
const source = (name) => readFileSync(folder + name, "utf8");
const encode = (text) => `data:text/javascript,${encodeURIComponent(text)}`;
// Loaded from their text: without a package.json, node takes a .js file for CommonJS.
const urls = {};
for (const name of ["sse.js", "markdown.js", "pages.js", "chat.js", "live.js", "deployments.js"]) {
  urls[name] = encode(source(name).replace(/from "\.\/([^"]+)"/g, (_, other) => `from "${urls[other]}"`));
}
const { EventParser } = await import(urls["sse.js"]);
const { blocks, inline } = await import(urls["markdown.js"]);
const { PageMap, layout } = await import(urls["pages.js"]);
const { requestBody, summary } = await import(urls["chat.js"]);
const { Rates, milliseconds } = await import(urls["live.js"]);
const { cells, standing } = await import(urls["deployments.js"]);

const text = (parts) => parts.map((part) => (typeof part === "string" ? part : text(part.children))).join("");

test("events come out whole, however the bytes are cut", () => {
  const stream = 'data: {"a":1}\n\n: keep-alive\n\ndata: two\ndata: lines\n\ndata: [DONE]\n\n';
  for (let size = 1; size < stream.length; size++) {
    const parser = new EventParser();
    const found = [];
    for (let i = 0; i < stream.length; i += size) found.push(...parser.push(stream.slice(i, i + size)));
    assert.deepEqual(found, ['{"a":1}', "two\nlines", "[DONE]"]);
  }
});

test("markdown becomes nodes", () => {
  assert.deepEqual(inline("a **b** `c*d*` *e*"),
    ["a ", { tag: "strong", children: ["b"] }, " ", { tag: "code", children: ["c*d*"] }, " ",
      { tag: "em", children: ["e"] }]);
  const found = blocks("# T\none\ntwo\n\n- x\n- y\n1. z\n> q\n```py\n<b>&\n");
  assert.deepEqual(found.map(({ tag }) => tag), ["p", "p", "ul", "ol", "blockquote", "pre"]);
  assert.equal(text([found[1]]), "one\ntwo");
  assert.equal(text([found[5]]), "<b>&\n");
});

test("markup in a text stays text, and no text makes another kind of node", () => {
  const evil = '<img src=x onerror=alert(1)> **<script>x</script>** [a](javascript:alert(1))\n- <b>';
  const tags = new Set();
  const walk = (part) => {
    if (typeof part === "string") return;
    tags.add(part.tag);
    part.children.forEach(walk);
  };
  blocks(evil).forEach(walk);
  assert.deepEqual([...tags].sort(), ["li", "p", "strong", "ul"]);
  assert.ok(text(blocks(evil)).includes("<img src=x onerror=alert(1)> <script>x</script>"));
});

test("long unclosed marks do not take for ever", () => {
  const found = blocks("*a ".repeat(5000) + "`".repeat(2000));
  assert.equal(found.length, 1);
});

test("the map of pages follows the events", () => {
  const map = new PageMap();
  assert.equal(map.apply(6, [[0, "ffcoss"]]), null);
  assert.deepEqual(map.counts, [2, 1, 1, 2]);
  assert.deepEqual(map.apply(6, [[1, "oc"], [5, "f"]]), [1, 5]);
  assert.deepEqual([...map.states], [0, 2, 1, 2, 3, 0]);
  assert.deepEqual(map.counts, [2, 1, 2, 1]);
  assert.equal(map.apply(3, []), null);
  assert.deepEqual(map.counts, [3, 0, 0, 0]);
  assert.throws(() => map.apply(3, [[0, "x"]]), RangeError);
});

test("the squares of any number of pages fit", () => {
  for (const pages of [1, 7, 100, 4096, 16384, 100000]) {
    for (const width of [320, 700, 1900]) {
      const { side, columns, rows } = layout(pages, width, 420);
      assert.ok(side >= 1 && columns * side <= width, `${pages} in ${width}`);
      assert.ok(columns * rows >= pages);
      assert.ok(rows * side <= 420, `${pages} in ${width}: ${rows} rows of ${side}`);
    }
  }
});

test("a request holds what the fields say", () => {
  const history = [{ role: "user", content: "hi" }];
  const body = requestBody("m", history, { system: "be brief", temperature: "0", topP: "", maxTokens: "5" });
  assert.deepEqual(body, {
    model: "m", stream: true, stream_options: { include_usage: true }, temperature: 0, max_tokens: 5,
    messages: [{ role: "system", content: "be brief" }, { role: "user", content: "hi" }],
  });
  assert.equal(history.length, 1);
});

test("rates and figures", () => {
  const rates = new Rates();
  assert.equal(rates.of("generation_tokens"), 0);
  for (let i = 0; i <= 20; i++) rates.add({ time: i / 4, num_steps: i, generation_tokens: 10 * i });
  assert.equal(rates.of("generation_tokens"), 40);
  rates.add({ time: 6, num_steps: 0, generation_tokens: 0 });
  assert.equal(rates.of("generation_tokens"), 0);
  assert.equal(milliseconds(null), "–");
  assert.equal(milliseconds(0.00123), "1.2");
  assert.equal(milliseconds(1.5), "1,500");
  assert.equal(summary({ completion_tokens: 20 }, "length", 2), "20 tokens in 2.0 s, 10.0 per second; cut off at max tokens");
  assert.equal(summary(null, null, 2), "stopped");
});

test("a deployment is told in a few words", () => {
  const canary = { phase: "rolled_back", percent: 0, reason: "it is slower" };
  for (const [type, state, words] of [
    ["canary", canary, "rolled back, 0%: it is slower"],
    ["canary", { phase: "running", percent: 5.000000001, reason: null }, "running, 5%"],
    ["blue-green", { active: "new" }, "new is active"],
    ["shadow", { shadow: "b", live: "a", agreement: null }, "b in the shadow of a"],
    ["shadow", { shadow: "b", live: "a", agreement: 0.985, compared: 200 }, "b in the shadow of a: 99% of 200 answers agree"],
    ["bandit", { pinned: null, arms: { a: { mean: 0.5 }, b: { mean: 0.6 } } }, "b seems best"],
    ["bandit", { pinned: "a", arms: { a: { mean: 0.5 }, b: { mean: 0.6 } } }, "a has all"],
  ]) assert.equal(standing({ strategy: { type }, state }), words);
  const version = {
    id: "new", share: 0.01, pending: 2, requests: { succeeded: 7, failed: 1, hung: 1, void: 5 }, mean_seconds: 0.0123, mean_score: null,
  };
  assert.deepEqual(cells(version), ["new", "1.0%", "2", "7", "2", "12.3 ms", "–"]);
});
