// The page of one post.

import * as api from "./api.js";
import { card, permalink, whole } from "./posts.js";
import { element } from "./text.js";
import { fillIn, say } from "./words.js";

const RELATED = 6;

const shown = document.querySelector("#shown");
const related = document.querySelector("#related");

async function open(id) {
  const post = await api.post(id);
  document.title = `${post.text.slice(0, 60)} · wingspan`;
  const ask = `/?ask=${encodeURIComponent(post.text.slice(0, 300))}`;
  shown.replaceChildren(
    ...whole(post),
    element("p", { class: "actions" }, element("a", { class: "primary", href: ask }, say.askAbout)),
  );
  const others = (await api.search(post.text, RELATED + 1)).filter((one) => one.post_id !== id).slice(0, RELATED);
  related.querySelector("ol").append(...others.map((one) => card(one, { link: { href: permalink(one.post_id) } })));
  related.hidden = others.length === 0;
}

fillIn();
open(decodeURIComponent(location.pathname.slice("/posts/".length))).catch((error) => {
  shown.replaceChildren(element("p", { class: "notice" }, error.message === say.unreachable ? error.message : say.noPost));
});
