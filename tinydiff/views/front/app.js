// The page: a text whose positions can be masked, the film of how the masks were filled, and what the model thinks.
//
// It asks an engine, which either runs the networks here (Local) or sends for a Python that does (Remote):
//     fill(start, options, signal), write(...)   frames, one after the other, see decoders.js
//     look(state, position)     {top: [[token, p], ...], attention: an array (H, L) per layer, or null}

const $ = id => document.getElementById(id);
const pause = ms => new Promise(resolve => setTimeout(resolve, ms));
const LEVELS = 5, FILM_SECONDS = 6, LEAST = 40;  // colours of confidence; of a film; ms that a frame is seen live
const NAMES = {low_confidence: "surest draw first", most_likely: "surest position first",
  entropy: "least entropy first", margin: "widest margin first", random: "by chance", left_to_right: "left to right",
  ancestral: "ancestral",
  first_hitting: "first hitting", threshold: "all that is surer than 90 %", remask_cap: "masking again (cap)",
  remask_rescale: "masking again (rescale)", remask_confidence: "masking again (the least sure)"};

class Local {
  constructor(data) {
    const read = name => data.models[name] && new Network(data.models[name].config,
      unpack($("weights-" + name).textContent.trim(), data.models[name].shapes, data.models[name].precision));
    this.masked = read("masked"); this.rival = read("rival");
  }
  async *fill(start, options) { yield* fill(this.masked, start, options); }
  async *write(start, options) { yield* write(this.rival, start, options); }
  async look(state, position) {
    const watch = [], logits = this.masked.logits(state, {select: [position], watch}), L = state.length;
    const p = softmax(logits), ids = [...p.keys()].sort((a, b) => p[b] - p[a]).slice(0, 5);
    const row = layer => Array.from({length: layer.length / L / L}, (_, head) =>
      layer.subarray((head * L + position) * L, (head * L + position + 1) * L));
    return {top: ids.map(id => [id, p[id]]), attention: watch.map(row)};
  }
}

class Remote {
  async *stream(path, body, signal) {
    const lost = error => {
      throw error instanceof TypeError ? new Error("The server does not answer: start tinydiff serve again, and open " +
        "the address that it prints.") : error;
    };
    const response = await fetch(path, {method: "POST", signal, body: JSON.stringify(body),
      headers: {"Content-Type": "application/json"}}).catch(lost);
    if (!response.ok) throw new Error((await response.json()).error);
    const reader = response.body.getReader(), decoder = new TextDecoder();
    for (let rest = "", got; !(got = await reader.read().catch(lost)).done;) {
      const lines = (rest + decoder.decode(got.value, {stream: true})).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const message = JSON.parse(line);
        if (message.error) throw new Error(message.error);
        yield message;
      }
    }
  }
  fill(start, options, signal) { return this.stream("fill", {start: [...start], ...options}, signal); }
  write(start, options, signal) { return this.stream("write", {start: [...start], ...options}, signal); }
  async look(state, position) {
    for await (const answer of this.stream("look", {state: [...state], position})) return answer;
  }
}

// --- tokens and text -------------------------------------------------------------------------------------------------

// Text to token ids and back, as in tinydiff/data/codec.py. A token is a string, and a text is its tokens, one after
// the other. They are characters; or words and marks, each with the blank before it, spelled where they are not known;
// or pieces of words, joined in the order of `merges` (byte-pair encoding).
const WORD = / ?[\p{L}\p{N}_]+| ?[^\p{L}\p{N}_\s]|\s/gu;

class Vocabulary {
  constructor({tokens, unit, eos, merges}) {
    Object.assign(this, {tokens, unit, eos, size: tokens.length});
    this.ids = new Map(tokens.map((token, id) => [token, id]));
    this.ranks = merges && new Map(merges.map(([left, right], rank) => [left + "\n" + right, rank]));
    this.blank = ["_", "~", "\u2591"].find(sign => !this.ids.has(sign)) ?? "\u2591";
  }
  get letters() { return this.unit === "letter"; }
  decode(ids) {
    const blank = i => (this.letters || i === 0 ? "" : " ") + this.blank;
    return Array.from(ids, (id, i) => id === this.size ? blank(i) : this.tokens[id]).join("");
  }
  // As one would write it: without the blank of the first word, if it is understood so.
  written(ids) {
    const text = this.decode(ids), bare = text.replace(/^ /, "");
    return String(this.encode(bare)) === String(ids) ? bare : text;
  }
  // A blank is MASK; the space before it belongs to the word that it stands for.
  encode(text) {
    const parts = text.replace(/\r\n/g, "\n").split(this.blank), ids = [];
    parts.forEach((part, k) => {
      const last = k === parts.length - 1;
      ids.push(...this.cut(last || this.letters ? part : part.replace(/ $/, ""), k === 0));
      if (!last) ids.push(this.size);
    });
    return Int32Array.from(ids);
  }
  cut(text, first) {
    if (this.letters) return Array.from(text, letter => this.known(letter));
    return (text.match(WORD) ?? []).flatMap((word, i) => {
      if (this.ranks) return this.join(word);
      if (this.ids.has(word)) return [this.ids.get(word)];
      const spelled = Array.from(word).every(each => this.ids.has(each));
      const begins = first && i === 0 && !spelled && this.ids.has(" " + word);  // people do not begin with a blank
      return begins ? [this.ids.get(" " + word)] : this.spell(word);
    });
  }
  // Whether words that are no tokens are spelled; where they are not, the word is what is not known, no letter of it.
  get spells() { return Array.from(this.tokens.join("")).every(letter => this.ids.has(letter)); }
  known(token, shown = token) {
    const id = this.ids.get(token);
    if (id !== undefined) return id;
    const all = this.letters && this.size <= 120 ? `: ${this.tokens.map(visible).join("")}` : ".";
    throw new Error(`The model does not know ${JSON.stringify(shown.trim() || shown)}; ` +
      `it has learnt ${this.size} ${this.unit}s${all}`);
  }
  spell(word) { return Array.from(word, letter => this.known(letter, this.spells ? letter : word)); }
  // The pair that was merged first, again and again, until no neighbours are a pair.
  join(word) {
    const pieces = Array.from(word);
    for (;;) {
      let best = -1, least = Infinity;
      for (let i = 0; i + 1 < pieces.length; i++) {
        const rank = this.ranks.get(pieces[i] + "\n" + pieces[i + 1]);
        if (rank < least) { best = i; least = rank; }
      }
      if (best < 0) return pieces.map(piece => this.known(piece));
      pieces.splice(best, 2, pieces[best] + pieces[best + 1]);
    }
  }
}

const visible = token => token.replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5");
const bare = token => visible(token.length > 1 ? token.replace(/^ /, "") : token);  // without the space of a word
const spoken = token => token === " " ? "space" : token === "\n" ? "line break" : bare(token);
const counted = (n, what) => `${n} ${what}${+n === 1 ? "" : "s"}`;
const percent = p => `${(100 * p).toFixed(p < 0.1 ? 1 : 0)} %`;

// --- cells -----------------------------------------------------------------------------------------------------------

const level = p => Math.min(LEVELS - 1, Math.floor(LEVELS * p));

// The look of position i of a frame: its classes, its sign, and what it is called.
function look(vocabulary, frame, given, i) {
  const id = frame.state[i];
  if (id === vocabulary.size) return frame.again.includes(i) ? ["again", "", "masked again"] : ["mask", "", "masked"];
  const token = vocabulary.tokens[id], fresh = frame.fresh.includes(i) ? " fresh" : "";
  const joined = id === vocabulary.eos ? " end" : vocabulary.letters || token[0] === " " ? "" : " joined";
  if (given[i] !== vocabulary.size) return ["given" + joined, bare(token), `${spoken(token)}, given`];
  return [`k${level(frame.sure[i])}${fresh}${joined}`, bare(token), `${spoken(token)}, ${percent(frame.sure[i])} sure`];
}

// From white to blue, for the share of the most that a position attends to.
const shade = share => `rgb(${[86, 165, 225].map(blue => Math.round(255 + share * (blue - 255))).join(", ")})`;

// A row of cells, made once and then changed where something changes.
class Cells {
  constructor(box, vocabulary, role) { Object.assign(this, {box, vocabulary, role, cells: []}); }
  // Words are kept together, with the marks that follow; all is laid out for the text at the end of the film.
  lay(frame) {
    const {vocabulary} = this, L = frame.state.length;
    while (this.cells.length < L) {
      const cell = document.createElement("span");
      cell.className = "cell";
      if (this.role) { cell.setAttribute("role", this.role); cell.id = `${this.box.id}-${this.cells.length}`; }
      this.cells.push(cell);
    }
    this.cells.length = L;
    const words = [];
    for (let i = 0, whole = true; i < L; i++) {  // whole: the word before ends here
      const id = frame.state[i], token = id === vocabulary.size ? null : vocabulary.tokens[id];
      const alone = token === null || id === vocabulary.eos;
      if (whole || alone || (!vocabulary.letters && token[0] === " ") || words.at(-1).length >= 16) words.push([]);
      words.at(-1).push(this.cells[i]);
      whole = alone || /^\s$/.test(token);
      this.cells[i].style.minWidth = vocabulary.letters || token === null ? "" : `${bare(token).length + 1}ch`;
    }
    this.box.replaceChildren(...words.map(word => {
      const span = document.createElement("span");
      span.className = "word";
      if (this.role) span.setAttribute("role", "presentation");
      span.append(...word);
      return span;
    }));
  }
  show(frame, given) {
    this.cells.forEach((cell, i) => {
      const [kind, sign, name] = look(this.vocabulary, frame, given, i);
      if (cell.textContent !== sign) cell.textContent = sign;
      cell.className = "cell " + kind;
      cell.style.backgroundColor = "";
      if (this.role) cell.setAttribute("aria-label", `${i + 1}: ${name}`);
    });
  }
}

// A slider and a button that go through moments at their times, in ms.
class Film {
  constructor(slider, button, show) {
    Object.assign(this, {slider, button, show, times: [0], timer: 0});
    button.onclick = () => this.timer ? this.stop() : this.play();
    slider.oninput = () => { this.stop(); show(this.at); };
  }
  get at() { return +this.slider.value; }
  get last() { return this.times.length - 1; }
  load(times, at) { this.stop(); this.times = times; this.slider.max = this.last; this.to(at); }
  to(i) { this.slider.value = Math.max(0, Math.min(this.last, i)); this.show(this.at); }
  step(by) { this.stop(); this.to(this.at + by); }
  stop() { clearInterval(this.timer); this.timer = 0; this.button.textContent = "Play"; }
  play() {
    if (this.at === this.last) this.to(0);
    const start = performance.now() - this.times[this.at];
    this.button.textContent = "Pause";
    this.timer = setInterval(() => {
      let i = this.at;
      while (i < this.last && this.times[i + 1] <= performance.now() - start) i++;
      if (i !== this.at) this.to(i);
      if (i === this.last) this.stop();
    }, 16);
  }
}

// --- the page --------------------------------------------------------------------------------------------------------

function begin(data, engine) {
  const vocabulary = new Vocabulary(data), MASK = vocabulary.size;
  const text = new Cells($("text"), vocabulary, "option");
  let given = new Int32Array(data.length).fill(MASK);  // the text that the next run starts from
  let was = given.slice();  // what stood where there are masks now, to be brought back
  let frames, running = null, focus = 0, anchor = 0, wanted = Infinity, looked = 0;
  const thoughts = new Map();  // what the model thinks of a position, by frame and position

  const still = () => ({step: 0, steps: 0, state: given, fresh: [], again: [], ms: 0,
    sure: Float32Array.from(given, id => id === MASK ? 0 : 1)});
  const masks = ids => ids.reduce((n, id) => n + (id === MASK), 0);
  const frame = () => frames[film.at];
  const film = new Film($("film"), $("play"), showFrame);
  const say = message => { $("error").textContent = message; $("error").hidden = !message; };
  const guarded = action => async (...arguments_) => {
    say("");
    try { await action(...arguments_); }
    catch (error) { if (error.name !== "AbortError") say(error.message); }
  };

  function showFrame() {
    const shown = frame(), left = masks(shown.state);
    text.show(shown, given);
    select();
    const per = shown.step ? `, ${(shown.ms / shown.step).toFixed(0)} ms per step` : "";
    $("status").textContent = frames.length > 1 || running ?
      `step ${shown.step} of ${shown.steps}, ${left} masked${per}` :
      `${left} of ${shown.state.length} positions masked`;
    $("back").disabled = film.at === 0; $("next").disabled = film.at === film.last;
    $("play").disabled = $("film").disabled = frames.length === 1;
    think(focus);
  }

  // A new text to start from: the film is over.
  function restart(ids, keep = false) {
    running?.abort(); running = null;
    thoughts.clear();
    if (!keep) was = Int32Array.from(ids);
    given = Int32Array.from(ids);
    frames = [still()];
    focus = Math.min(focus, given.length - 1); anchor = Math.min(anchor, given.length - 1);
    text.lay(frames[0]);
    film.load([0], 0);
    $("own").value = vocabulary.written(given);
    $("length").value = given.length;
    dials();
  }

  // Change the text that is seen: `change` gets it and returns the id for a position.
  function edit(positions, change) {
    const seen = frame().state, ids = Int32Array.from(seen);
    if (was.length !== ids.length) was = ids.slice();
    ids.forEach((id, i) => { if (id !== MASK) was[i] = id; });
    for (const i of positions) ids[i] = change(ids[i], i);
    ids.forEach((id, i) => { if (id !== MASK) was[i] = id; });
    restart(ids, true);
  }
  const toggle = i => edit([i], id => id === MASK ? was[i] : MASK);
  const selected = () =>
    Array.from({length: Math.abs(focus - anchor) + 1}, (_, k) => Math.min(anchor, focus) + k);

  function move(to, extend = false) {
    focus = Math.max(0, Math.min(given.length - 1, to));
    if (!extend) anchor = focus;
    select(); think(focus);
  }
  function select() {
    const chosen = new Set(selected());
    text.cells.forEach((cell, i) => {
      const seen = chosen.size > 1 || pointed || document.activeElement === $("text");
      cell.classList.toggle("selected", chosen.has(i) && seen);
      cell.setAttribute("aria-selected", chosen.has(i));
    });
    $("text").setAttribute("aria-activedescendant", `text-${focus}`);
  }

  // --- running

  const options = () => ({order: $("order").value, steps: +$("steps").value, temperature: +$("temperature").value,
    noise: +$("noise").value, rounds: +$("rounds").value, seed: +$("seed").value});

  function dials() {
    const most = Math.max(1, masks(given));
    $("steps").max = most; $("steps").value = Math.min(wanted, most);
    const steps = +$("steps").value, each = most / steps;
    $("steps-out").textContent = `${steps}, ${each % 1 ? each.toFixed(1) : each} at a time`;
    $("temperature-out").textContent = (+$("temperature").value).toFixed(2);
    $("noise-out").textContent = $("noise").value;
    $("rounds-out").textContent = $("rounds").value;
    $("noisy").hidden = !data.noisy.includes($("order").value);
  }

  function checkMasks() {
    if (masks(given)) return;
    throw new Error(`Nothing is masked: click a ${data.unit}, or drag over several, and fill again.`);
  }

  async function fillIn() {
    if (running) { running.abort(); running = null; $("fill").textContent = "Fill the masks"; return; }
    checkMasks();
    const control = running = new AbortController();
    film.stop();
    frames = [still()]; thoughts.clear();
    film.load([0], 0);
    $("fill").textContent = "Stop"; $("race").hidden = true;
    try {
      for await (const each of engine.fill(given, options(), control.signal)) {
        if (running !== control) return;
        if (each.step === 0) frames = [each]; else frames.push(each);
        film.times = frames.map((_, i) => i);
        $("film").max = each.steps; $("film").value = frames.length - 1;
        showFrame();
        await pause(LEAST);
        if (running !== control) return;
      }
    } finally {
      if (running === control) running = null;
      if (!running) $("fill").textContent = "Fill the masks";
    }
    const pace = Math.min(300, 1000 * FILM_SECONDS / Math.max(1, frames.length - 1));
    text.lay(frames.at(-1));
    film.load(frames.map((_, i) => i * pace), frames.length - 1);
    $("own").value = vocabulary.written(frames.at(-1).state);
  }

  // --- what the model thinks

  let pointed = false;
  function think(i) {
    const at = film.at, key = `${at}/${i}`, state = Int32Array.from(frame().state), there = state[i];
    const ask = ++looked;
    if (thoughts.has(key)) return tell(thoughts.get(key), i, there);
    $("place").textContent = `Position ${i + 1}`;
    if (running || film.timer) return;
    state[i] = MASK;
    setTimeout(guarded(async () => {
      if (ask !== looked || running) return;
      const thought = await engine.look(state, i);
      if (ask !== looked) return;
      thoughts.set(key, thought);
      tell(thought, i, there);
    }), 60);
  }

  function tell({top, attention}, i, there) {
    const name = there === MASK ? ", masked" : `: ${bare(vocabulary.tokens[there])}`;
    $("place").textContent = `Position ${i + 1}${name}`;
    $("asked").textContent = there === MASK ? "The likeliest here:" : "The likeliest here, if only this were masked:";
    $("top").replaceChildren(...top.map(([id, p]) => {
      const item = document.createElement("li"), button = document.createElement("button");
      const part = textContent => Object.assign(document.createElement("span"), {textContent});
      button.type = "button";
      button.style.setProperty("--p", p);
      button.append(part(spoken(vocabulary.tokens[id]) + (id === there ? " \u2713" : "")), part(percent(p)));
      button.onclick = () => { edit([i], () => id); move(i); };
      item.append(button);
      return item;
    }));
    paint(attention, i);
  }

  // Cells in shades of one blue: how much the position attends to each, as a share of the most.
  function paint(attention, i) {
    const choice = $("paint").value;
    $("painting").hidden = !data.attention;
    $("painted").hidden = choice === "" || !attention;
    if ($("painted").hidden) return;
    const [layer, head] = choice.split("/"), rows = head === "" ? attention[layer] : [attention[layer][head]];
    const sum = Array.from(rows[0], (_, j) => rows.reduce((s, row) => s + row[j], 0) / rows.length);
    const most = Math.max(...sum);
    text.cells.forEach((cell, j) => {
      const hole = frame().state[j] === MASK ? " hole" : "";
      cell.className = cell.className.replace(/k\d|mask|again|given/, "") + " lit" + hole;
      cell.style.backgroundColor = shade(sum[j] / most);
      cell.setAttribute("title", `${percent(sum[j])} of the attention of position ${i + 1}`);
    });
  }

  // --- pointing, dragging, typing

  const box = $("text");
  const cellAt = ({clientX: x, clientY: y}) => text.cells.indexOf(document.elementFromPoint(x, y)?.closest(".cell"));
  let pressed = -1;
  box.onpointerdown = event => {
    const i = cellAt(event);
    if (i < 0 || event.button) return;
    pressed = i; pointed = true;
    move(i, event.shiftKey);
    box.focus({preventScroll: true});
    event.preventDefault();
    if (event.pointerType !== "touch") box.setPointerCapture(event.pointerId);
  };
  box.onpointermove = event => {
    const i = cellAt(event);
    if (i < 0) return;
    if (pressed >= 0) { if (i !== focus) move(i, true); }
    else if (event.pointerType === "mouse" && anchor === focus && i !== focus) { pointed = true; move(i); }
  };
  box.onpointerup = guarded(() => {
    if (pressed < 0) return;
    const chosen = selected(), from = pressed;
    pressed = -1;
    if (chosen.length > 1) { edit(chosen, () => MASK); anchor = focus; select(); } else toggle(from);
  });
  box.onpointercancel = () => { pressed = -1; };
  box.onpointerleave = event => { if (event.pointerType === "mouse" && pressed < 0) { pointed = false; select(); } };
  box.onfocus = box.onblur = () => select();

  // The position in the line above or below that is nearest.
  function beside(down) {
    const here = text.cells[focus].getBoundingClientRect();
    let best = focus, least = Infinity;
    text.cells.forEach((cell, i) => {
      const there = cell.getBoundingClientRect(), lines = (there.top - here.top) * (down ? 1 : -1);
      const far = 10 * lines + Math.abs(there.left - here.left);
      if (lines > here.height / 2 && far < least) { best = i; least = far; }
    });
    return best;
  }

  box.onkeydown = guarded(event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = {ArrowLeft: () => focus - 1, ArrowRight: () => focus + 1, ArrowUp: () => beside(false),
      ArrowDown: () => beside(true), Home: () => 0, End: () => given.length - 1};
    if (event.key in moves) move(moves[event.key](), event.shiftKey);
    else if (event.key === "Delete") { edit(selected(), () => MASK); move(focus); }
    else if (event.key === "Backspace") { edit(selected(), () => MASK); move(Math.min(anchor, focus) - 1); }
    else if (event.key === "Enter") { if (anchor === focus) toggle(focus); else edit(selected(), () => MASK); }
    else if (event.key.length === 1 || [...event.key].length === 1) {
      if (!vocabulary.letters) { $("token").value = event.key; $("token").focus(); }
      else put(event.key);
    } else return;
    event.preventDefault();
  });

  function put(written) {
    const whole = vocabulary.letters || vocabulary.ids.has(written);
    const ids = vocabulary.encode(whole ? written : written.replace(/^ ?/, " "));
    if (!ids.length) throw new Error(`Write a ${data.unit} first.`);
    const at = Math.min(anchor, focus), room = given.length - at;
    if (ids.length > room) throw new Error(`From here on there are ${room} positions; this takes ${ids.length}.`);
    edit(Array.from(ids, (_, k) => at + k), (_, i) => ids[i - at]);
    move(at + ids.length);
  }

  // --- the race

  let race = null;
  const raceFilm = new Film($("race-film"), $("race-play"), showMoment);

  async function runRace() {
    checkMasks();
    running?.abort();
    const control = running = new AbortController(), start = given.slice(), first = start.indexOf(MASK);
    const lost = start.reduce((n, id, i) => n + (i > first && id !== MASK), 0);
    $("race-start").disabled = true; $("race").hidden = false;
    $("race-note").textContent = "Each runs alone, one after the other; then both are shown on the clock that was " +
      "measured." + (lost ? ` Left to right only the first ${first} given positions are seen: ` +
      `the other ${lost} are written anew.` : "");
    const tracks = [];
    try {
      const rounds = +$("rounds").value ? `, ${counted($("rounds").value, "round")}` : "";
      const diffusion = `diffusion, ${counted($("steps").value, "step")}${rounds}`;
      for (const [name, run] of [["left to right", "write"], [diffusion, "fill"]]) {
        const kept = [];
        $("race-status").textContent = `running: ${name}`;
        await pause(30);
        for await (const each of engine[run](start, options(), control.signal)) {
          kept.push(each);
          if (kept.length % 4 === 0) await pause(0);
          if (running !== control) return;
        }
        tracks.push({name, frames: kept, given: run === "fill" ? start : start.map((id, i) => i < first ? id : MASK)});
      }
    } finally {
      if (running === control) running = null;
      $("race-start").disabled = false;
    }
    race = {tracks};
    const times = tracks.flatMap(track => track.frames.map(each => each.ms));
    const stamps = [...new Set([0, ...times])].sort((a, b) => a - b);
    race.stamps = stamps;
    race.slow = Math.max(1, 1000 * FILM_SECONDS / stamps.at(-1));
    $("tracks").replaceChildren(...tracks.map(track => {
      const box = document.createElement("div"), cells = document.createElement("div");
      cells.className = "cells"; cells.setAttribute("role", "img");
      track.title = Object.assign(document.createElement("h3"), {textContent: track.name});
      track.row = new Cells(cells, vocabulary, null);
      track.row.lay(track.frames.at(-1));
      track.status = Object.assign(document.createElement("p"), {className: "note"});
      box.append(track.title, cells, track.status);
      return box;
    }));
    raceFilm.load(stamps.map(ms => ms * race.slow), 0);
    raceFilm.play();
    $("race").scrollIntoView({block: "nearest"});
  }

  function showMoment(at) {
    if (!race) return;
    const clock = race.stamps[at];
    for (const track of race.tracks) {
      const shown = track.frames.findLast(each => each.ms <= clock) ?? track.frames[0], end = track.frames.at(-1);
      track.row.show(shown, track.given);
      track.row.box.setAttribute("aria-label", vocabulary.decode(shown.state));
      track.status.textContent = shown === end ? `done in ${end.ms.toFixed(0)} ms` :
        `step ${shown.step} of ${shown.steps}`;
    }
    const slower = `, shown ${Number(race.slow.toPrecision(2)).toLocaleString("en")} times slower`;
    $("race-status").textContent = `${clock.toFixed(0)} ms${race.slow > 1.05 ? slower : ""}`;
  }

  // --- wiring

  $("fill").onclick = guarded(fillIn);
  $("mask-all").onclick = guarded(() => edit(given.keys(), () => MASK));
  $("race-start").onclick = guarded(runRace);
  $("race-start").hidden = !data.race;
  $("back").onclick = () => film.step(-1);
  $("next").onclick = () => film.step(1);
  $("steps").oninput = () => { wanted = +$("steps").value; if (wanted >= +$("steps").max) wanted = Infinity; dials(); };
  for (const id of ["temperature", "noise", "rounds", "order"]) $(id).oninput = dials;
  $("reseed").onclick = () => { $("seed").value = (+$("seed").value + 1) % 4294967296; };
  $("put").onclick = guarded(() => put($("token").value));
  $("token").onkeydown = guarded(event => {
    if (event.key === "Enter") { put($("token").value); $("token").value = ""; $("text").focus(); }
  });
  $("paint").oninput = () => { text.show(frame(), given); select(); think(focus); };
  $("use").onclick = guarded(() => {
    let ids = vocabulary.encode($("own").value);
    if (!ids.length) throw new Error("The text is empty: write something, or mask all.");
    if (ids.length > data.length)
      throw new Error(`The text has ${ids.length} ${data.unit}s; this model takes at most ${data.length}.`);
    if (data.pad !== null) ids = Int32Array.from({length: data.length}, (_, i) => ids[i] ?? data.pad);
    restart(ids);
  });
  $("length").onchange = guarded(() => {
    const length = +$("length").value;
    if (!(Number.isInteger(length) && 1 <= length && length <= data.length)) {
      $("length").value = given.length;
      throw new Error(`The text can have 1 to ${data.length} positions.`);
    }
    const seen = frame().state;
    restart(Int32Array.from({length}, (_, i) => seen[i] ?? MASK));
  });

  const option = (value, name) => Object.assign(document.createElement("option"), {value, textContent: name});
  $("order").append(...data.orders.map(name => option(name, NAMES[name] ?? name)));
  $("paint").append(option("", "nothing"));
  for (let layer = 0; data.attention && layer < data.attention[0]; layer++) {
    $("paint").append(option(`${layer}/`, `layer ${layer + 1}, mean of its heads`));
    for (let head = 0; head < data.attention[1]; head++)
      $("paint").append(option(`${layer}/${head}`, `layer ${layer + 1}, head ${head + 1}`));
  }
  if (vocabulary.size <= 2000)
    $("tokens").append(...vocabulary.tokens.filter(token => token.trim()).map(token => option(bare(token))));
  for (const [name, value] of Object.entries(data.defaults)) $(name).value = value;
  $("length").max = data.length;
  $("blank-name").textContent = vocabulary.blank;
  $("facts").textContent = data.facts;
  document.body.classList.toggle("words", !vocabulary.letters);
  const sample = (kind, textContent = "") =>
    Object.assign(document.createElement("span"), {className: `cell ${kind}`, textContent});
  const entry = (cells, words) => {
    const span = document.createElement("span");
    span.append(...cells, " " + words);
    return span;
  };
  $("legend").append(entry([sample("mask")], "masked"), entry([sample("again")], "masked again"),
    entry([sample("given", "a")], "given"), entry([sample(`k${LEVELS - 1} fresh`, "a")], "new in this step"),
    entry(Array.from({length: LEVELS}, (_, k) => sample("k" + k)), "unsure, 0 %, to sure, 100 %"));
  for (const share of [1, 0.5, 0])
    $("painted").prepend(Object.assign(sample("lit"), {style: `background: ${shade(share)}`}));
  restart(given);
  $("needs").hidden = true;
  document.querySelector("main").hidden = false;
}

{
  const data = JSON.parse($("data").textContent);
  begin(data, data.models ? new Local(data) : new Remote());
}
