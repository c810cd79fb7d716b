// Small helpers for elements.

export const $ = (selector, root = document) => root.querySelector(selector);

// An element with attributes and children; texts are never read as HTML.
export function element(tag, attributes = {}, ...children) {
  const result = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") result.className = value;
    else if (name in result) result[name] = value;
    else result.setAttribute(name, value);
  }
  result.append(...children);
  return result;
}

export function showLoading(place, lines = 2) {
  place.setAttribute("aria-busy", "true");
  const bars = Array.from({ length: lines }, () => element("span", { class: "skeleton" }));
  place.replaceChildren(
    element("div", { class: "loading" }, element("span", { class: "visually-hidden" }, "Loading"), ...bars),
  );
}

export function show(place, ...children) {
  place.removeAttribute("aria-busy");
  place.replaceChildren(...children);
}

// An error with a button that tries again, if there is something to try.
export function showError(place, error, retry) {
  const parts = [element("p", {}, error.message)];
  if (retry) {
    parts.push(element("button", { type: "button", class: "quiet", onclick: retry }, "Try again"));
  }
  show(place, element("div", { class: "error", role: "alert" }, ...parts));
}

const tasks = new WeakMap(); // from a place to the controller that ends its task

// Runs a task that fills a place, in place of the one that still runs there; shows that it loads,
// and its error. Returns whether it went well. The task is given a signal, which is aborted with
// `signal`. `refused` may show an error of the request itself elsewhere; `retry` is what a button
// after other errors does, by default the same again.
export async function fill(place, task, options = {}) {
  const { lines = 2, signal, refused, retry = () => fill(place, task, options) } = options;
  tasks.get(place)?.abort();
  const own = new AbortController();
  tasks.set(place, own);
  if (signal?.aborted) return false;
  signal?.addEventListener("abort", () => own.abort(), { once: true });
  showLoading(place, lines);
  try {
    const content = await task(own.signal);
    if (own.signal.aborted) return false;
    show(place, content);
    return true;
  } catch (error) {
    if (own.signal.aborted || error.name === "AbortError") return false;
    const isOurs = error.status >= 400 && error.status < 500;
    if (isOurs && refused) {
      show(place);
      refused(error);
    } else {
      showError(place, error, isOurs ? null : retry);
    }
    return false;
  }
}

export function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1%";
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`;
}

// Texts with bars, the best first.
export function bars(rows) {
  return element(
    "ol",
    { class: "bars" },
    ...rows.map(({ text, share }) => {
      const fillBar = element("i", {});
      fillBar.style.width = `${100 * share}%`;
      return element(
        "li",
        {},
        element("span", { class: "text" }, text),
        element("span", { class: "share" }, percent(share)),
        element("span", { class: "bar", "aria-hidden": "true" }, fillBar),
      );
    }),
  );
}
