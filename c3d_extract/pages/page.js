"use strict";

/** Return the text that a script element holds, compressed and in base64. */
async function unpack(id) {
  const packed = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

/** Run plotly.js, which the page carries. */
async function loadLibrary() {
  const script = document.createElement("script");
  script.textContent = await unpack("library");
  document.head.append(script);
}

/** Return an element; text only ever becomes text, never HTML. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const byId = (id) => document.getElementById(id);

/** Let the theme button change between dark and light. */
function watchTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  byId("theme").addEventListener("click", () => {
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
    root.dataset.theme = isDark ? "light" : "dark";
  });
}

const WORDS = {
  n_clips: "clips", n_frames: "frames", fps: "frames/s", duration_seconds: "duration", size_bytes: "size",
  n_decode_errors: "decode errors", start_frame: "first frame", end_frame: "end frame", start_seconds: "from",
  end_seconds: "to", seconds: "time taken", n_padded_frames: "padded frames",
};

/** Return a value of a column as people write it. */
function shown(column, value) {
  if (value === null || value === undefined) return "unknown";
  if (column === "size_bytes") {
    return value < 1e6 ? `${(value / 1e3).toFixed(1)} kB` : `${(value / 1e6).toFixed(1)} MB`;
  }
  if (column.includes("seconds")) return `${value.toFixed(2)} s`;
  return typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 2 }) : String(value);
}
