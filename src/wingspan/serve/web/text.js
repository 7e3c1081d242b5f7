// Text of a model as elements: paragraphs, lists, code, emphasis and citations.
// Everything is made with createElement and textContent, so no markup in an answer or a post is ever parsed.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

const INLINE = /(`[^`\n]+`)|(\*\*[^*\n]+\*\*)|(\*[^*\s][^*\n]*\*)|\[(\d{1,2})\]/g;

// `cite(number)` makes the element of a citation, or null when the number means no post.
function* inline(text, cite) {
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, code, strong, emphasis, number] = match;
    const made = code
      ? element("code", {}, code.slice(1, -1))
      : strong
        ? element("strong", {}, strong.slice(2, -2))
        : emphasis
          ? element("em", {}, emphasis.slice(1, -1))
          : cite(Number(number));
    const before = text.slice(end, match.index);
    yield number && made ? before.trimEnd() : before;
    yield made ?? whole;
    end = match.index + whole.length;
  }
  yield text.slice(end);
}

const ITEM = /^\s*(?:[-*•]|\d+[.)])\s+/;

export function render(text, cite) {
  const blocks = [];
  for (const [position, part] of text.split(/^```.*$/m).entries()) {
    if (position % 2) {
      blocks.push(element("pre", {}, element("code", {}, part.trim())));
      continue;
    }
    for (const paragraph of part.split(/\n\s*\n/).filter((one) => one.trim())) {
      const lines = paragraph.trim().split("\n");
      if (lines.every((line) => ITEM.test(line))) {
        const ordered = /^\s*\d/.test(lines[0]);
        const items = lines.map((line) => element("li", {}, ...inline(line.replace(ITEM, ""), cite)));
        blocks.push(element(ordered ? "ol" : "ul", {}, ...items));
      } else {
        const pieces = lines.flatMap((line, row) => [...(row ? [element("br")] : []), ...inline(line, cite)]);
        blocks.push(element("p", {}, ...pieces));
      }
    }
  }
  return blocks;
}
