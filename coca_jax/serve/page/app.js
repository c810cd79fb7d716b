// The page: what the model can do, and the image that all parts are about.
import { read } from "./api.js";
import { captionImage, forgetWords } from "./captions.js";
import { $, show, showError } from "./dom.js";
import { clearMap } from "./overlay.js";
import { setUpLabels, setUpQuestions, setUpSearch } from "./panels.js";

let image = null;
let abort = new AbortController();
const current = () => ({ image, signal: abort.signal });

async function start() {
  let info;
  try {
    info = await read("v1/model");
  } catch (error) {
    $("#model-name").textContent = "No model";
    showError($("#model-error"), error, () => location.reload());
    return;
  }
  describe(info);
  const abilities = { captions: "caption", classify: "classify", answer: "answer", search: "search" };
  for (const [id, ability] of Object.entries(abilities)) {
    $(`#${id}`).hidden = !info.abilities[ability];
  }
  const again = [setUpLabels(current), setUpQuestions(current)];
  setUpSearch(current);
  takeImages((file) => choose(file, info, () => again.forEach((run) => run())));
  $("main").hidden = false;
}

function describe(info) {
  document.title = `Try ${info.name}`;
  $("#model-name").textContent = info.name;
  show($("#model-error"));
  const [height, width] = info.image_size;
  const facts = [`images of ${width} × ${height} pixels`];
  if (info.step !== null) facts.unshift(`step ${info.step.toLocaleString("en")}`);
  if (info.indexed) facts.push(`${info.indexed.toLocaleString("en")} images to search`);
  $("#model-facts").textContent = facts.join(" · ");
  $("#query-label").textContent = `Describe one of the ${info.indexed.toLocaleString("en")} images.`;
}

// Takes an image; `readable` is called once the server could read it.
function choose(file, info, readable) {
  abort.abort();
  abort = new AbortController();
  forgetWords();
  show($("#image-error"));
  document.querySelectorAll("#panels .result").forEach((place) => show(place));
  clearMap();
  $("#hint").textContent = "";
  const refused = (error) => {
    image = null;
    showPreview(null);
    showError($("#image-error"), error);
  };
  const { max_bytes: most } = info.limits;
  if (file.size > most - 4096) {
    const size = `${megabytes(file.size)} MB; the server takes at most ${megabytes(most)} MB.`;
    refused(new Error(`The file has ${size}`));
    return;
  }
  image = file;
  showPreview(file);
  if (info.abilities.caption) captionImage(file, info, abort.signal, { readable, refused });
  else readable();
}

const megabytes = (bytes) => (bytes / 2 ** 20).toFixed(1);

function showPreview(file) {
  const preview = $("#preview");
  URL.revokeObjectURL(preview.src);
  $("#stage").hidden = !file;
  $("#drop").classList.toggle("filled", Boolean(file));
  $("#choose strong").textContent = file ? "Choose another image" : "Choose an image";
  $("#similar").disabled = !file;
  if (!file) return;
  preview.alt = `The chosen image, ${file.name || "pasted"}`;
  preview.onerror = () => {
    // Browsers do not show all formats that the server reads.
    $("#stage").hidden = true;
    $("#drop").classList.remove("filled");
  };
  preview.src = URL.createObjectURL(file);
}

// Takes files that are chosen, dropped or pasted.
function takeImages(take) {
  const input = $("#file");
  input.addEventListener("change", () => {
    if (input.files[0]) take(input.files[0]);
    input.value = "";
  });
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const showTarget = (shown) => ($("#dropping").hidden = !shown);
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    showTarget(true);
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) showTarget(false);
  });
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    showTarget(false);
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData?.files ?? [];
    if (file) take(file);
  });
}

start();
