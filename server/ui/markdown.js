// A little Markdown, as nodes and never as HTML: what a model says stays text.

const INLINE = /(`+)(.+?)\1|\*\*(.+?)\*\*|__(.+?)__|\*([^\s*](?:[^*]*[^\s*])?)\*/s;

// The parts of one paragraph: strings, and {tag, children}.
export function inline(text) {
  const parts = [];
  let rest = text;
  for (let match; (match = INLINE.exec(rest)); rest = rest.slice(match.index + match[0].length)) {
    if (match.index) parts.push(rest.slice(0, match.index));
    const strong = match[3] ?? match[4];
    if (match[2] !== undefined) parts.push({ tag: "code", children: [match[2]] });
    else if (strong !== undefined) parts.push({ tag: "strong", children: inline(strong) });
    else parts.push({ tag: "em", children: inline(match[5]) });
  }
  if (rest) parts.push(rest);
  return parts;
}

const FENCE = /^\s*```/;
const BULLET = /^\s*[-*+]\s+(.*)$/;
const NUMBER = /^\s*\d+[.)]\s+(.*)$/;
const HEADING = /^#{1,6}\s+(.*)$/;
const QUOTE = /^>\s?(.*)$/;

// The blocks of a text, as {tag, children, className?}. A fence that is still open reaches to the end.
export function blocks(text) {
  const lines = text.split("\n");
  const found = [];
  let paragraph = [];
  const flush = () => {
    if (paragraph.length) found.push({ tag: "p", children: inline(paragraph.join("\n")) });
    paragraph = [];
  };
  const taken = (pattern, start) => {
    const items = [];
    for (let match, i = start; i < lines.length && (match = pattern.exec(lines[i])); i++) items.push(match[1]);
    return items;
  };
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i];
    const list = BULLET.test(line) ? ["ul", BULLET] : NUMBER.test(line) ? ["ol", NUMBER] : null;
    if (FENCE.test(line)) {
      flush();
      const code = [];
      for (i++; i < lines.length && !FENCE.test(lines[i]); i++) code.push(lines[i]);
      found.push({ tag: "pre", children: [{ tag: "code", children: [code.join("\n")] }] });
    } else if (list) {
      flush();
      const items = taken(list[1], i);
      found.push({ tag: list[0], children: items.map((item) => ({ tag: "li", children: inline(item) })) });
      i += items.length - 1;
    } else if (QUOTE.test(line)) {
      flush();
      const items = taken(QUOTE, i);
      found.push({ tag: "blockquote", children: blocks(items.join("\n")) });
      i += items.length - 1;
    } else if (HEADING.test(line)) {
      flush();
      found.push({ tag: "p", className: "heading", children: inline(HEADING.exec(line)[1]) });
    } else if (line.trim() === "") {
      flush();
    } else {
      paragraph.push(line);
    }
  }
  flush();
  return found;
}

export function toNodes(parts) {
  return parts.map((part) => {
    if (typeof part === "string") return document.createTextNode(part);
    const node = document.createElement(part.tag);
    if (part.className) node.className = part.className;
    node.append(...toNodes(part.children));
    return node;
  });
}
