// The conversation: ask, stream, stop, answer again, and the posts behind every answer.

import * as api from "./api.js";
import { card, opensPost } from "./posts.js";
import { element, render } from "./text.js";
import { count, fillIn, say } from "./words.js";

const SUGGESTIONS = 4;
const REMEMBERED = 6; // earlier turns that go with a question; what a small context holds
const CONSENT = "wingspan.consent";
const KEPT = "wingspan.conversation"; // in this tab only: following a citation and coming back keeps the talk

const $ = (selector) => document.querySelector(selector);
const form = $("#ask");
const field = $("#question");
const log = $("#log");

let assistant = { name: "wingspan", model: "", posts: 0, topics: [] };
let turns = []; // {question, answer, posts, citations, grounded, state: "answering" | "done" | "stopped" | "failed"}
let running = null; // the AbortController of the answer under way

// --- what is shown

function isDoubtful(turn, number) {
  const checked = turn.citations.filter((one) => one.number === number);
  return checked.length > 0 && !checked.some((one) => one.supported);
}

function citation(turn, number) {
  const post = turn.posts.find((one) => one.number === number);
  if (!post) return null;
  const doubtful = isDoubtful(turn, number);
  const label = doubtful ? `${say.source(number)}, ${say.unsupportedMark}` : say.source(number);
  const attributes = { class: doubtful ? "chip doubtful" : "chip", "aria-label": label, title: post.text };
  return element("a", { ...attributes, ...opensPost(post) }, String(number));
}

function sources(turn) {
  const numbers = new Set(turn.citations.filter((one) => one.post_id !== null).map((one) => one.number));
  const cited = turn.posts.filter((post) => numbers.has(post.number));
  const others = turn.posts.filter((post) => !numbers.has(post.number));
  const shown = (post) => card(post, { number: post.number, doubtful: isDoubtful(turn, post.number) });
  const list = (posts) => element("ol", { class: "cards" }, ...posts.map(shown));
  const parts = [];
  if (cited.length) parts.push(element("h3", {}, say.cited), list(cited));
  if (others.length) {
    const found = cited.length ? say.alsoFound(others.length) : say.found(others.length);
    parts.push(element("details", {}, element("summary", {}, found), list(others)));
  }
  return parts;
}

function icon(path) {
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawing.setAttribute("viewBox", "0 0 20 20");
  drawing.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", path);
  drawing.append(line);
  return drawing;
}

const COPY = "M7 7V4.5h8.5V13H13M4.5 7H13v8.5H4.5z";
const PEN = "M4 16l1-4 8.5-8.5 3 3L8 15zM4 16l4-1";
const THUMB_UP = "M7 9v7.5H4V9zM7 9l3.5-6c1.5 0 2 1 1.5 2.5L11.5 8H16l-1.5 8.5H7";
const THUMB_DOWN = "M7 11V3.500H4V11zM7 11l3.5 6c1.5 0 2-1 1.5-2.5L11.500 12H16L14.500 3.500H7";
const AGAIN = "M15.5 6.5A6.5 6.5 0 1 0 16.5 10M16 3v4h-4";

function actions(turn) {
  const copy = element("button", { class: "quiet", type: "button" }, icon(COPY), element("span", {}, say.copy));
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(turn.answer);
    copy.lastChild.textContent = say.copied;
  });
  const last = turn === turns.at(-1);
  const words = turn.state === "failed" ? say.retry : say.regenerate;
  const again = element("button", { class: "quiet", type: "button" }, icon(AGAIN), element("span", {}, words));
  again.addEventListener("click", () => answer(turn, { temperature: 0.7 }));
  const edit = element("button", { class: "quiet", type: "button" }, icon(PEN), element("span", {}, say.edit));
  edit.addEventListener("click", () => askOtherwise(turn));
  const shown = [turn.answer && navigator.clipboard ? copy : null, ...(last ? [again, edit] : [])];
  const judged = assistant.feedback && turn.state === "done" ? thumbs(turn) : [];
  return element("p", { class: "actions" }, ...shown, ...judged);
}

function thumbs(turn) {
  if (turn.judged) return [element("span", { class: "thanks" }, say.thanks)];
  const thumb = (path, label, judged) => {
    const button = element("button", { class: "quiet", type: "button", "aria-label": label, title: label }, icon(path));
    button.addEventListener("click", judged);
    return button;
  };
  return [
    thumb(THUMB_UP, say.up, () => judge(turn, turn.former ? { feedback: "regenerate" } : { feedback: "up" })),
    thumb(THUMB_DOWN, say.down, () => judge(turn, { feedback: "down" })),
  ];
}

// A small question with one button for each choice; null when it is closed without one.
function choose(question, choices) {
  const dialog = $("#choice");
  return new Promise((resolve) => {
    const buttons = Object.entries(choices).map(([value, label]) => {
      const button = element("button", { type: "button" }, label);
      button.addEventListener("click", () => dialog.close(value));
      return button;
    });
    dialog.replaceChildren(element("p", {}, question), element("p", { class: "choices" }, ...buttons));
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue || null), { once: true });
    dialog.showModal();
  });
}

async function judge(turn, said) {
  if (sessionStorage.getItem(CONSENT) === null) {
    const answered = await choose(say.consent, { yes: say.agree, no: say.decline });
    if (answered !== "yes") return;
    sessionStorage.setItem(CONSENT, "yes");
  }
  if (said.feedback === "down") {
    const reason = await choose(say.why, say.reasons);
    if (reason === null) return;
    said = { ...said, reason };
  }
  const other = said.feedback === "regenerate" ? { answer: turn.former, better: turn.answer } : { answer: turn.answer };
  const post_ids = turn.posts.map((post) => post.post_id);
  try {
    await api.judge({ messages: history(turn), ...other, ...said, post_ids, consent: true });
    turn.judged = true;
    draw(turn);
    keep();
    $("#status").textContent = say.thanks;
  } catch (error) {
    $("#status").textContent = error.message;
    turn.shown.append(element("p", { class: "notice failed" }, error.message));
  }
}

function askOtherwise(turn) {
  turns.splice(turns.indexOf(turn), 1);
  turn.shown.remove();
  field.value = turn.question;
  fitField();
  field.focus();
  keep();
}

function draw(turn) {
  const words = element("div", { class: "answer" }, ...render(turn.answer, (number) => citation(turn, number)));
  const parts = [element("h2", {}, turn.question), words];
  if (turn.state === "answering") {
    words.classList.add("growing");
    if (!turn.answer) words.append(element("p", {}));
  } else {
    if (turn.state === "failed") parts.push(element("p", { class: "notice failed" }, turn.error));
    if (turn.state === "stopped") parts.push(element("p", { class: "notice" }, say.stopped));
    if (turn.state === "done" && !turn.grounded) parts.push(element("p", { class: "notice" }, say.unsupported));
    if (turn.state !== "failed") parts.push(...sources(turn));
    parts.push(actions(turn));
  }
  const article = element("article", { "aria-busy": String(turn.state === "answering") }, ...parts);
  if (turn.shown) turn.shown.replaceWith(article);
  else log.append(article);
  turn.shown = article;
}

// Draw at most once a frame, and follow the answer only while the reader is at its end.
function drawSoon(turn) {
  turn.due ??= requestAnimationFrame(() => {
    turn.due = null;
    const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 120;
    draw(turn);
    if (atEnd) scrollTo(0, document.documentElement.scrollHeight);
  });
}

function drawFrame() {
  $("#welcome").hidden = turns.length > 0;
  $("#new").hidden = turns.length === 0;
  form.classList.toggle("running", running !== null);
  $("#send").setAttribute("aria-label", running ? say.stop : say.send);
  $("#send").disabled = !running && !field.value.trim();
}

function drawWelcome() {
  document.title = `${assistant.name} · wingspan`;
  $("#welcome h1").textContent = say.greeting(assistant.name);
  $("#welcome .lead").textContent = say.lead(count(assistant.posts));
  field.placeholder = say.placeholder(assistant.name);
  $("#hint").textContent = say.hint(assistant.name);
  const topics = [...assistant.topics].sort(() => Math.random() - 0.5).slice(0, SUGGESTIONS);
  const buttons = topics.map((topic) => {
    const question = say.suggestion(topic);
    return element("li", {}, element("button", { type: "button", onclick: () => ask(question) }, question));
  });
  $("#suggestions").replaceChildren(...buttons);
  $("#welcome h2").hidden = buttons.length === 0;
}

// --- what happens

function keep() {
  const kept = turns.map(({ shown, due, ...turn }) => turn);
  sessionStorage.setItem(KEPT, JSON.stringify(kept));
}

function history(until) {
  const before = turns.slice(0, turns.indexOf(until)).filter((turn) => turn.answer).slice(-REMEMBERED);
  const said = before.flatMap((turn) => [
    { role: "user", content: turn.question },
    { role: "assistant", content: turn.answer },
  ]);
  return [...said, { role: "user", content: until.question }];
}

async function ask(question) {
  await started; // who types faster than the page loads waits here
  const turn = { question };
  turns.push(turn);
  turns.at(-2)?.shown && draw(turns.at(-2)); // only the last answer can be asked for again
  answer(turn, {});
}

async function answer(turn, sampling) {
  if (running) return;
  running = new AbortController();
  const former = turn.state === "done" ? turn.answer : ""; // what a better answer is compared with
  Object.assign(turn, { former, judged: false, answer: "", posts: [], citations: [], grounded: false, state: "answering", error: "" });
  draw(turn);
  drawFrame();
  turn.shown.scrollIntoView({ block: "start" });
  $("#status").textContent = say.answering(assistant.name);
  try {
    for await (const event of api.ask(assistant.model, history(turn), sampling, running.signal)) {
      turn.answer += event.choices[0]?.delta.content ?? "";
      turn.posts = event.posts ?? turn.posts;
      turn.citations = event.citations ?? turn.citations;
      turn.grounded = event.grounded ?? turn.grounded;
      drawSoon(turn);
    }
    turn.state = "done";
  } catch (error) {
    turn.state = error.name === "AbortError" ? "stopped" : "failed";
    turn.error = error.message;
  }
  running = null;
  const cited = new Set(turn.citations.map((one) => one.post_id)).size;
  $("#status").textContent =
    turn.state === "done" ? `${turn.answer} ${turn.grounded ? say.answered(cited) : say.unsupported}` : turn.error;
  drawSoon(turn);
  drawFrame();
  keep();
}

function startAnew() {
  running?.abort();
  turns = [];
  log.replaceChildren();
  sessionStorage.removeItem(KEPT);
  drawWelcome();
  drawFrame();
  field.focus();
}

function fitField() {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
  drawFrame();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return running.abort();
  const question = field.value.trim();
  if (!question) return;
  field.value = "";
  fitField();
  ask(question);
});
field.addEventListener("input", fitField);
field.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!running) form.requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !$("#post").open) running.abort();
  if (event.key === "/" && !event.target.closest("textarea, input, dialog")) {
    event.preventDefault();
    field.focus();
  }
});
$("#new").addEventListener("click", startAnew);

async function start() {
  fillIn();
  try {
    assistant = await api.about();
  } catch (error) {
    log.append(element("p", { class: "notice failed" }, error.message));
    return;
  }
  drawWelcome();
  turns = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
  turns.forEach(draw);
  field.value ||= new URLSearchParams(location.search).get("ask") ?? "";
  fitField();
  if (matchMedia("(pointer: fine)").matches) field.focus();
}

const started = start();
