// Calls of the server's API. An error has a message for people.

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export async function read(path) {
  return request(path, {});
}

// Posts a form; of a field with a list, every value. `image` is a File or null.
export async function post(name, image, fields, signal) {
  const form = new FormData();
  if (image) form.append("images", image);
  for (const [key, value] of Object.entries(fields)) {
    for (const one of Array.isArray(value) ? value : [value]) form.append(key, one);
  }
  return request(`v1/${name}`, { method: "POST", body: form, signal });
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?", 0);
  }
  let content = null;
  try {
    content = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (response.ok && content) return content;
  throw new ApiError(message(response.status, content?.error), response.status);
}

function message(status, error) {
  if (status === 503) return "The server is busy. Try again in a moment.";
  let text = error?.message ?? `The server answered with status ${status}.`;
  if (error?.details?.length) {
    text += `: ${error.details.map((one) => `${one.field.join(".")}: ${one.message}`).join("; ")}`;
  }
  if (error?.id) text += ` (${error.id})`;
  text = text.replace(/^images\[0\]/, "The file");
  return text[0].toUpperCase() + text.slice(1);
}
