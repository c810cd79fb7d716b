// Draws an attention map over the preview: what the model attends to stays lit.
import { $ } from "./dom.js";

const SHADE = 0.8; // of what gets no attention

// The part of an image that the model sees, in pixels of the image.
export function seen(width, height, { image_size: [rows, columns], resize_mode: mode }) {
  if (mode === "squash" || mode === "native") return { x: 0, y: 0, width, height };
  const pick = mode === "longest" ? Math.max : Math.min;
  const scale = pick(width / columns, height / rows);
  const size = { width: columns * scale, height: rows * scale };
  return { x: (width - size.width) / 2, y: (height - size.height) / 2, ...size };
}

export function clearMap() {
  const canvas = $("#overlay");
  canvas.classList.remove("on");
}

export function drawMap(map, info) {
  const image = $("#preview");
  const canvas = $("#overlay");
  const ratio = Math.min(2, window.devicePixelRatio || 1);
  canvas.width = Math.max(1, image.clientWidth * ratio);
  canvas.height = Math.max(1, image.clientHeight * ratio);
  const context = canvas.getContext("2d");
  const { naturalWidth: width, naturalHeight: height } = image;
  if (!width) return; // the browser cannot show this image
  // The image is shown as large as fits, in the middle of its element.
  const scale = Math.min(canvas.width / width, canvas.height / height);
  context.translate((canvas.width - width * scale) / 2, (canvas.height - height * scale) / 2);
  context.scale(scale, scale);
  context.beginPath();
  context.rect(0, 0, width, height);
  context.clip();
  context.fillStyle = `rgb(10 12 16 / ${SHADE})`;
  context.fillRect(0, 0, width, height);
  const place = seen(width, height, info);
  const box = [place.x, place.y, place.width, place.height];
  context.clearRect(...box);
  context.beginPath();
  context.rect(...box);
  context.clip();
  context.imageSmoothingQuality = "high";
  context.drawImage(...padded(shades(map), box));
  canvas.classList.add("on");
}

// A small canvas with a pixel for each patch, dark where there is little attention.
function shades(map) {
  const small = document.createElement("canvas");
  small.width = map[0].length + 2;
  small.height = map.length + 2;
  const context = small.getContext("2d");
  const most = Math.max(...map.flat(), 1e-12);
  for (let row = -1; row <= map.length; row++) {
    for (let column = -1; column <= map[0].length; column++) {
      // The border repeats the outermost patches, so that they are not faded when enlarged.
      const value = at(map, row, column) / most;
      context.fillStyle = `rgb(10 12 16 / ${SHADE * (1 - value)})`;
      context.fillRect(column + 1, row + 1, 1, 1);
    }
  }
  return small;
}

function at(map, row, column) {
  const clamp = (value, length) => Math.max(0, Math.min(length - 1, value));
  return map[clamp(row, map.length)][clamp(column, map[0].length)];
}

function padded(small, [x, y, width, height]) {
  const cell = [width / (small.width - 2), height / (small.height - 2)];
  return [small, x - cell[0], y - cell[1], width + 2 * cell[0], height + 2 * cell[1]];
}
