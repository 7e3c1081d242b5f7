// Posts as people see them: a card in a list, a panel over the page, a page of its own.

import { element } from "./text.js";
import { day, say } from "./words.js";

export const permalink = (id) => `/posts/${id.split("/").map(encodeURIComponent).join("/")}`;

function byline(post, remark = null) {
  const parts = [say.post(post.post_id.length > 18 ? `${post.post_id.slice(0, 16)}…` : post.post_id)];
  if (post.author_id) parts.push(say.by(post.author_id.slice(0, 12)));
  if (post.created_at) parts.push(day(post.created_at));
  const marked = remark && element("span", { class: "remark" }, remark);
  return element("p", { class: "byline" }, parts.join(" · "), marked);
}

// A click opens the panel; with a modifier key, or without script, the link goes to the post's own page.
export function opensPost(post) {
  return {
    href: permalink(post.post_id),
    onclick: (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
      event.preventDefault();
      showPanel(post);
    },
  };
}

// In the list of an answer's posts a card bears its number, and a remark where the answer misread it.
export function card(post, { number = null, doubtful = false, link = opensPost(post) } = {}) {
  const badge = element("span", { class: doubtful ? "number doubtful" : "number", "aria-hidden": "true" }, String(number));
  const label = number === null ? {} : { "aria-label": `${say.source(number)}: ${post.text}` };
  return element(
    "li",
    {},
    element(
      "a",
      { class: "card", ...label, ...link },
      number === null ? null : badge,
      element("p", { class: "text" }, post.text),
      byline(post, doubtful ? say.unsupportedMark : null),
    ),
  );
}

export function whole(post) {
  return [element("blockquote", {}, post.text), byline(post)];
}

function showPanel(post) {
  const panel = document.querySelector("#post");
  panel.replaceChildren(
    ...whole(post),
    element(
      "p",
      { class: "actions" },
      element("a", { class: "primary", href: permalink(post.post_id) }, say.openPost),
      element("button", { class: "quiet", type: "button", onclick: () => panel.close() }, say.close),
    ),
  );
  panel.setAttribute("aria-label", say.post(post.post_id));
  panel.onclick = (event) => {
    if (event.target === panel) panel.close(); // a click beside the panel
  };
  panel.showModal();
}
