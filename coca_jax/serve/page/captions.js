// The captions of an image by each method, and the attention of their words.
import { post } from "./api.js";
import { $, element, fill, show } from "./dom.js";
import { clearMap, drawMap } from "./overlay.js";

let maps = new Map(); // from a caption to its words with their maps
let pinned = null;

// Forgets the words of the last image.
export function forgetWords() {
  maps = new Map();
  pinned = null;
}

// Captions an image by all methods. `readable` is called once the server could read the image,
// `refused` with the error if it could not.
export async function captionImage(image, info, signal, { readable, refused }) {
  $("#again").hidden = true;
  const run = (method, options) => captionBy(method, image, info, signal, { refused, ...options });
  for (const method of ["beam", "sample"]) show(placeOf(method));
  const retry = () => captionImage(image, info, signal, { readable, refused });
  if (!(await run("greedy", { retry }))) return;
  readable();
  await Promise.all([run("beam"), run("sample")]);
  if (signal.aborted) return;
  $("#again").hidden = false;
  $("#again").onclick = async () => {
    if (await run("sample")) await addMaps(image, info, signal);
  };
  await addMaps(image, info, signal);
}

const placeOf = (method) => $(`[data-method=${method}] .result`);

function captionBy(method, image, info, signal, options) {
  const task = async (own) => {
    const fields = { method, ...info.captioning[method] };
    const [best] = (await post("caption", image, fields, own)).captions;
    return element("ol", { class: "texts" }, ...[best, ...(best.others ?? [])].map(line));
  };
  return fill(placeOf(method), task, { lines: method === "greedy" ? 2 : 5, signal, ...options });
}

function line({ caption, log_probability: nats }) {
  const words = element("p", { class: "words", "data-caption": caption }, caption.trim() || "(no words)");
  const score = element(
    "p",
    { class: "muted score", title: "Log-probability of the caption, in nats" },
    `log p ${nats.toFixed(2).replace("-", "−")}`,
  );
  return element("li", {}, words, score);
}

async function addMaps(image, info, signal) {
  const places = [...document.querySelectorAll(".words")].filter((one) => one.dataset.caption);
  const texts = [...new Set(places.map((one) => one.dataset.caption))].filter((one) => !maps.has(one));
  const size = info.limits.max_images;
  try {
    for (let i = 0; i < texts.length; i += size) {
      const part = texts.slice(i, i + size);
      const answer = await post("attention", image, { texts: part }, signal);
      part.forEach((text, k) => maps.set(text, answer.texts[k]));
    }
  } catch (error) {
    return; // the captions stay as they are, without maps
  }
  for (const place of places) linkWords(place, info);
}

// Makes the words of a caption buttons that show their maps; arrow keys move among them.
function linkWords(place, info) {
  const words = maps.get(place.dataset.caption);
  if (!words?.length || place.querySelector("button")) return;
  const buttons = words.map(({ word, map }, number) => {
    const button = element("button", { type: "button", class: "word", tabIndex: number ? -1 : 0 }, word);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("mouseenter", () => light(button, map, info));
    button.addEventListener("focus", () => light(button, map, info));
    button.addEventListener("mouseleave", restore);
    button.addEventListener("blur", restore);
    button.addEventListener("click", () => pin(button, map, info));
    return button;
  });
  place.setAttribute("role", "group");
  place.setAttribute("aria-label", `Caption: ${place.dataset.caption}`);
  place.addEventListener("keydown", (event) => move(event, buttons));
  place.replaceChildren(...buttons.flatMap((button) => [button, " "]));
}

function light(button, map, info) {
  document.querySelectorAll(".word.on").forEach((one) => one.classList.remove("on"));
  button.classList.add("on");
  drawMap(map, info);
  $("#hint").textContent = `Where the model attends as it writes “${button.textContent}”`;
}

function restore() {
  document.querySelectorAll(".word.on").forEach((one) => one.classList.remove("on"));
  if (pinned?.button.isConnected) {
    light(pinned.button, pinned.map, pinned.info);
    return;
  }
  clearMap();
  $("#hint").textContent = "";
}

function pin(button, map, info) {
  const again = pinned?.button === button;
  pinned?.button.setAttribute("aria-pressed", "false");
  pinned = again ? null : { button, map, info };
  button.setAttribute("aria-pressed", String(!again));
  if (again) restore();
  else light(button, map, info);
}

function move(event, buttons) {
  const steps = { ArrowRight: 1, ArrowLeft: -1 };
  const at = buttons.indexOf(document.activeElement);
  const ends = { Home: 0, End: buttons.length - 1 };
  const next = ends[event.key] ?? at + (steps[event.key] ?? NaN);
  if (at < 0 || !buttons[next]) return;
  event.preventDefault();
  buttons[at].tabIndex = -1;
  buttons[next].tabIndex = 0;
  buttons[next].focus();
}
