// The last window that was answered: its spectrum, and where the network looked, as npser explain shows them.
import { SHADES } from "./palette.mjs";

export function drawLook(spectrum, weights, look, dark) {
  const frames = look.shades.length / look.bands;
  paint(spectrum, frames, look.bands, SHADES.night, (t, row) => look.shades[t * look.bands + look.bands - 1 - row]);
  weights.hidden = !look.attention;
  if (!look.attention) return 0;
  const steps = look.attention.length / look.heads;
  const top = topOf(look.attention, steps);
  const shades = dark ? SHADES.dusk : SHADES.day;
  paint(weights, steps, look.heads, shades, (t, head) => 255 * Math.min(1, (look.attention[head * steps + t] * steps) / top));
  return top;
}

// The weight of the darkest shade: the largest but for a few, at least twice the average.
function topOf(attention, steps) {
  const sorted = Float32Array.from(attention).sort();
  return Math.max(2, sorted[Math.floor(0.998 * (sorted.length - 1))] * steps);
}

function paint(canvas, width, height, shades, value) {
  canvas.width = width;
  canvas.height = height;
  const g = canvas.getContext("2d");
  const image = g.createImageData(width, height);
  for (let row = 0, at = 0; row < height; row++) {
    for (let t = 0; t < width; t++, at += 4) {
      image.data.set(shades[Math.round(value(t, row))], at);
      image.data[at + 3] = 255;
    }
  }
  g.putImageData(image, 0, 0);
}
