"use strict";
// Changes of the page, as they happen. Without this script the page reloads instead (noscript in page.html).

const HELD = 1500; // milliseconds that a new question cannot be answered: a finger may be on its way already
const ENDED = "piimg has ended. This is how it ended.";
const AGAIN = 5000; // milliseconds until the next attempt
const lost = document.getElementById("lost");
let mark = document.body.dataset.mark;

/** Make the element `from` like `to`, and keep what is the same: the scroll position, the focus, a typed text. */
function morph(from, to) {
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName || key(from) !== key(to)) {
    from.replaceWith(to);
    if (key(to)) hold(to);
    return;
  }
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.data !== to.data) from.data = to.data;
    return;
  }
  for (const { name } of [...from.attributes]) if (!to.hasAttribute(name)) from.removeAttribute(name);
  for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  const before = [...from.children.length || to.children.length ? solid(from) : from.childNodes];
  const after = [...from.children.length || to.children.length ? solid(to) : to.childNodes];
  after.forEach((node, at) => (at < before.length ? morph(before[at], node) : add(from, node)));
  before.slice(after.length).forEach((node) => node.remove());
}

/** The children of an element without the blanks between them. */
function solid(element) {
  return [...element.childNodes].filter((node) => node.nodeType !== Node.TEXT_NODE || node.data.trim());
}

function key(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.dataset.key : undefined;
}

function add(parent, node) {
  parent.append(node);
  if (key(node)) hold(node);
}

function hold(question) {
  question.inert = true;
  setTimeout(() => (question.inert = false), HELD);
}

function say(text) {
  lost.textContent = text;
  lost.hidden = !text;
}

function connect() {
  const source = new EventSource(`events?from=${encodeURIComponent(mark)}`);
  let timer = 0;
  const retry = () => {
    source.close();
    setTimeout(connect, AGAIN);
  };
  source.onopen = () => {
    clearTimeout(timer);
    timer = 0;
    say("");
  };
  source.onmessage = (event) => {
    const { title, parts } = JSON.parse(event.data);
    mark = event.lastEventId;
    document.title = title;
    for (const [id, html] of Object.entries(parts)) {
      const made = document.createElement("template");
      made.innerHTML = html;
      morph(document.getElementById(id), made.content.firstElementChild);
    }
  };
  source.addEventListener("end", () => {
    document.body.classList.add("ended");
    say(ENDED);
    retry();
  });
  source.onerror = () => {
    const now = new Date().toLocaleTimeString();
    timer ||= setTimeout(() => {
      if (!document.body.classList.contains("ended")) say(`No connection since ${now}: piimg has ended, or the network is down.`);
    }, 3000);
    if (source.readyState === EventSource.CLOSED) retry();
  };
}

if (document.body.classList.contains("ended")) say(ENDED);
else if (document.body.classList.contains("ended")) say(ENDED);
else connect();
