// Colours, as npser explain has them.
export const COLOURS = {
  angry: "#d64545",
  bored: "#9c7a5b",
  calm: "#4aa39a",
  disgusted: "#6a8f3c",
  excited: "#f08a24",
  fearful: "#7d5ba6",
  frustrated: "#b0413e",
  happy: "#f2b134",
  neutral: "#8c9bab",
  other: "#b8b0a8",
  sad: "#3f72af",
  surprised: "#d977a8",
};
const NIGHT = ["#0b0724", "#2d1160", "#721f81", "#b5367a", "#f1605d", "#feaf77", "#fcfdbf"];
const DAY = ["#f3f4f7", "#d3d9ee", "#9fadd9", "#6279b8", "#35508f", "#16264f"];
const DUSK = ["#1b2030", "#25315a", "#35508f", "#6279b8", "#9fadd9", "#eef1fb"]; // DAY, for a dark page

// The colour of each emotion; labels of the user's own take what is left.
export function coloursOf(labels) {
  const own = Object.keys(COLOURS).filter((label) => !labels.includes(label));
  const left = (own.length ? own : Object.keys(COLOURS)).map((label) => COLOURS[label]);
  return Object.fromEntries(labels.map((label, n) => [label, COLOURS[label] ?? left[n % left.length]]));
}

// 256 colours between the anchors of a palette, each [red, green, blue].
function shadesOf(anchors) {
  const parts = anchors.map((colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
  return Array.from({ length: 256 }, (_, n) => {
    const place = (n / 255) * (parts.length - 1);
    const k = Math.min(Math.floor(place), parts.length - 2);
    return parts[k].map((value, c) => Math.round(value + (place - k) * (parts[k + 1][c] - value)));
  });
}

export const SHADES = { night: shadesOf(NIGHT), day: shadesOf(DAY), dusk: shadesOf(DUSK) };
