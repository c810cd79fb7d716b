// Labels, questions and search.
import { post } from "./api.js";
import { $, bars, element, fill, show } from "./dom.js";

// Runs a task when a form is sent with a text; returns a function that runs it again if there is one.
function onText(section, input, run) {
  const form = $("form", section);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (input.value.trim()) run(input.value.trim());
    else input.focus();
  });
  return () => {
    if (input.value.trim()) run(input.value.trim());
    else show($(".result", section));
  };
}

function needsImage(section) {
  show($(".result", section), element("p", { class: "muted" }, "Choose an image first."));
}

export function setUpLabels(current) {
  const section = $("#classify");
  return onText(section, $("#labels"), (text) => {
    const { image, signal } = current();
    if (!image) return needsImage(section);
    const labels = [...new Set(text.split(/[,;\n]/).map((one) => one.trim()).filter(Boolean))];
    const task = async (own) => {
      const [rows] = (await post("classify", image, { labels }, own)).images;
      return bars(rows.map((one) => ({ text: one.label, share: one.probability })));
    };
    return fill($(".result", section), task, { signal });
  });
}

export function setUpQuestions(current) {
  const section = $("#answer");
  return onText(section, $("#question"), (question) => {
    const { image, signal } = current();
    if (!image) return needsImage(section);
    const task = async (own) => {
      const [rows] = (await post("answer", image, { questions: [question] }, own)).answers;
      if (rows[0].probability === null || rows[0].probability === undefined) {
        return element("p", { class: "said" }, rows[0].answer || "(no answer)");
      }
      return bars(rows.map((one) => ({ text: one.answer, share: one.probability })));
    };
    return fill($(".result", section), task, { signal });
  });
}

export function setUpSearch(current) {
  const section = $("#search");
  const search = (image, fields) =>
    fill($(".result", section), async (own) => {
      const { matches } = await post("search", image, { top: 12, ...fields }, own);
      return element("ol", { class: "grid" }, ...matches.map(match));
    });
  onText(section, $("#query"), (text) => search(null, { text }));
  $("#similar").addEventListener("click", () => search(current().image, {}));
}

function match({ path, similarity, thumbnail }) {
  const image = element("img", { src: thumbnail, alt: path, loading: "lazy" });
  const note = element("span", { class: "muted" }, similarity.toFixed(3));
  return element("li", {}, image, element("p", {}, element("span", { class: "path", title: path }, path), note));
}
