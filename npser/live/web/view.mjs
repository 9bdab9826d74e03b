// What one sees of a session, beside the chart.
import { clock } from "./chart.mjs";
import { likeliest } from "./sessions.mjs";

const ROWS = 100; // of the table: the latest

export const byId = (id) => document.getElementById(id);

export function element(name, text = "", properties = {}) {
  return Object.assign(document.createElement(name), { textContent: text }, properties);
}

export const percent = (p) => (p >= 0.995 ? "over 99%" : `${Math.round(100 * p)}%`);

// A bar for each label. They stay in their places, so that they can be followed.
export function showBars(place, labels, probabilities, colours, nothing) {
  if (labels.length === 0) {
    place.replaceChildren(element("p", nothing, { className: "soft" }));
    return;
  }
  if (place.children.length !== labels.length) {
    place.replaceChildren(
      ...labels.map((label) => {
        const row = element("div", "", { className: "bar" });
        const room = element("span", "", { className: "room" });
        room.append(element("i"));
        room.firstChild.style.background = colours[label] ?? "#6279b8";
        row.append(element("span", label, { className: "name" }), room, element("span", "", { className: "value" }));
        return row;
      }),
    );
  }
  labels.forEach((label, n) => {
    const [, room, value] = place.children[n].children;
    const p = probabilities[label];
    room.firstChild.style.width = `${100 * (p ?? 0)}%`;
    value.textContent = p === undefined ? "" : `${(100 * p).toFixed(1)}%`;
  });
}

export function showAnswer(session, about, colours) {
  const answer = session?.answer;
  const p = answer?.probabilities ?? {};
  showBars(byId("emotions"), about.emotions, p, colours, "");
  showBars(byId("genders"), about.genders, answer?.gender_probabilities ?? {}, {}, "This network does not tell voices apart.");
  byId("verdict").textContent = !answer ? "\u2013" : (answer.emotion ?? "no answer");
  byId("verdict-more").textContent = answer ? moreOf(answer) : session ? "No speech was heard yet." : "Nothing was heard yet.";
}

function moreOf({ event, start, end, emotion, probabilities, reason }) {
  const over = { answer: "the last seconds of speech", utterance: "what was said", recording: "the whole recording" }[event];
  const where = event === "recording" ? "" : `, ${clock(start)} to ${clock(end)}`;
  return emotion ? `${percent(probabilities[emotion])} probable, over ${over}${where}` : `${reason}${where}`;
}

export function showRows(session, about) {
  const answers = session ? session.events.filter(({ event }) => event !== "speech") : [];
  const rows = answers.slice(-ROWS).reverse();
  byId("rows").replaceChildren(
    ...rows.map(({ event, start, end, emotion, probabilities, gender_probabilities, reason }) => {
      const row = element("tr");
      const p = about.emotions.map((label) => (label in probabilities ? probabilities[label].toFixed(3) : ""));
      const cells = [`${start.toFixed(1)} to ${end.toFixed(1)}`, event, emotion ?? reason, ...p];
      if (about.genders.length) cells.push(likeliest(gender_probabilities) ?? "");
      row.append(...cells.map((text) => element("td", text)));
      return row;
    }),
  );
  const forgotten = session?.forgotten ? ` The first ${session.forgotten} events were let go of, so that memory stays flat.` : "";
  const some = answers.length > ROWS ? `The latest ${ROWS} of ${answers.length} answers. The downloads have all that are kept.` : "";
  byId("rows-note").textContent = some + forgotten;
}

export function showColumns(about) {
  const names = ["seconds", "of", "emotion", ...about.emotions, ...(about.genders.length ? ["voice"] : [])];
  byId("columns").replaceChildren(...names.map((name) => element("th", name, { scope: "col" })));
}

export function showLegend(about, colours) {
  const parts = about.emotions.map((label) => [colours[label], label]);
  parts.push(["var(--accent)", "somebody speaks"]);
  byId("legend").replaceChildren(
    ...parts.map(([colour, label]) => {
      const part = element("span");
      const mark = element("i");
      mark.style.background = colour;
      part.append(mark, label);
      return part;
    }),
  );
}

// The card of the model, and what it must not be used for.
export function showAbout(about) {
  const chance = `${(100 / about.emotions.length).toFixed(0)}%`;
  const ua = about.ua === null ? "" : ` On its test recordings it found ${Math.round(100 * about.ua)}% of each emotion, on average.`;
  const from = about.corpora.length ? `It learnt from ${about.corpora.join(", ")}${about.speakers ? `, ${about.speakers} speakers` : ""}. ` : "";
  const items = [
    `The network chooses among ${about.emotions.length} words: ${about.emotions.join(", ")}. It must choose one, whatever it hears. Blind guessing finds ${chance} of each.${ua}`,
    `${from}Most recordings for this purpose are acted. People who do not act sound different, and so do other languages, rooms and microphones. It hears how something is said, not what, and not what somebody feels.`,
    "Do not judge people by it. It must not decide about anybody's work, marks, credit, health or rights. In the EU it is forbidden to infer emotions at work and in schools (AI Act, Article 5(1)(f)), and people must be told that such a system hears them (Article 50(3)).",
    `Pauses are cut out. An answer is over the last ${about.config.max_seconds} s of speech, and an utterance ends with a pause. Of a recording, the large answer is over all of it, as npser predict gives it.`,
    "Nothing is stored or sent. What you hear and see here is gone when this tab is closed, but for what you download. Only the choice of the microphone is remembered in this browser.",
    `Model: SHA-256 ${about.sha256}; network ${about.network}.${about.licence ? ` Licence: ${about.licence}.` : ""}`,
  ];
  byId("about-list").replaceChildren(...items.map((text) => element("li", text)));
  byId("notices").replaceChildren(...about.notices.map((text) => element("p", text, { className: "card notice" })));
  byId("subtitle").textContent = `npser ${about.version}, model ${about.sha256.slice(0, 12)}. It runs in this browser, without a server.`;
}

export function save(text, name, type) {
  const url = URL.createObjectURL(text instanceof Blob ? text : new Blob([text], { type }));
  element("a", "", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
