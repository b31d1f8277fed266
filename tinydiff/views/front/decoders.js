// From masks to text, as in tinydiff/decoders: orders.py (which positions a step fills), draws.py (which token),
// gibbs.py (second thoughts) and next_token.py (left to right). A decoder is a generator: it yields a frame per step, as
// soon as it is there.
//
// A frame: {step, steps, state, fresh, again, sure, ms}. `state` are token ids, MASK = V; `fresh` the positions filled
// in this step, `again` those masked again; `sure` the probability of each token when it was filled in, 1 where it was
// given; `ms` the time worked so far.

// Uniform numbers in [0, 1) from a seed: mulberry32 (Ettinger 2017).
function generator(seed) {
  let a = seed >>> 0;
  return () => {
    a = a + 0x6D2B79F5 | 0;
    let t = Math.imul(a ^ a >>> 15, 1 | a);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 4294967296;
  };
}

// The softmax of logits / temperature, in float64.
function softmax(logits, temperature = 1) {
  let most = -Infinity;
  for (const logit of logits) most = Math.max(most, logit);
  if (!Number.isFinite(most)) throw new Error("logits contain NaN or inf: the model's weights are broken");
  const p = Float64Array.from(logits, logit => Math.exp((logit - most) / temperature));
  const total = p.reduce((a, b) => a + b);
  return p.map(each => each / total);
}

const argmax = p => p.reduce((best, each, i) => each > p[best] ? i : best, 0);

// A token from logits: the likeliest at temperature 0, else by chance.
function draw(logits, p, temperature, random) {
  if (temperature === 0) return argmax(p);
  const law = temperature === 1 ? p : softmax(logits, temperature);
  let u = random() * law.reduce((a, b) => a + b);
  for (let token = 0; token < law.length; token++) if ((u -= law[token]) < 0) return token;
  return argmax(law);
}

// How sure the model is where its law is p and `token` was drawn, in nats: the surest positions are filled first.
const TINY = 2.2250738585072014e-308, log = x => Math.log(Math.max(x, TINY));
const RANKS = {
  low_confidence: (p, token) => log(p[token]),
  most_likely: p => log(p[argmax(p)]),
  entropy: p => p.reduce((sum, each) => sum + each * log(each), 0),
  margin: p => {
    const best = argmax(p);
    return log(p[best] - p.reduce((second, each, i) => i === best ? second : Math.max(second, each), 0));
  },
};

// Fill the masks of `start` in `steps` steps, and then, `rounds` times, a random third of them again (block Gibbs, see
// gibbs.py), in as many steps or as it has masks if those are fewer. `order` is one of RANKS, "random" or
// "left_to_right"; `noise`, the choice temperature, adds Gumbel noise to the ranks, less and less of it.
function* fill(network, start, {order, steps, temperature, noise, seed, rounds = 0}) {
  const mask = network.vocabSize, random = generator(seed), free = [...start.keys()].filter(i => start[i] === mask);
  if (![...Object.keys(RANKS), "random", "left_to_right"].includes(order))
    throw new Error(`there is no order ${order}`);
  if (!(1 <= steps && steps <= free.length))
    throw new Error(`steps is ${steps}; expected 1 to ${free.length}, the number of masks`);
  const hide = Math.max(1, Math.round(free.length / 3)), each = Math.min(steps, hide);
  let state = Int32Array.from(start), sure = Float32Array.from(start, id => id === mask ? 0 : 1), step = 0, ms = 0;
  for (let round = 0; round <= rounds; round++) {
    const again = round ? some(free, hide, random) : [];
    state = state.slice(); sure = sure.slice();
    for (const i of again) { state[i] = mask; sure[i] = 0; }
    const last = step + (round ? 1 + each : steps) + (rounds - round) * (1 + each);
    if (round) step++;
    yield {step, steps: last, state, fresh: [], again, sure, ms};
    for (const inner of draft(network, state, sure, {order, steps: round ? each : steps, temperature, noise, random})) {
      ({state, sure} = inner);
      step++; ms += inner.ms;
      yield {step, steps: last, state, fresh: inner.fresh, again: [], sure, ms};
    }
  }
}

// `count` of some positions, all sets equally likely (Floyd; Bentley 1987).
function some(positions, count, random) {
  const chosen = new Set();
  for (let last = positions.length - count; last < positions.length; last++) {
    const at = Math.floor(random() * (last + 1));
    chosen.add(chosen.has(at) ? last : at);
  }
  return [...chosen].map(at => positions[at]);
}

// All masks of `state` in `steps` steps: {state, sure, fresh, ms} after each, ms for this step alone.
function* draft(network, state, sure, {order, steps, temperature, noise, random}) {
  const mask = network.vocabSize, total = state.filter(id => id === mask).length;
  for (let step = 1; step <= steps; step++) {
    const began = performance.now(), masked = [...state.keys()].filter(i => state[i] === mask);
    const quota = Math.floor(total * step / steps) - Math.floor(total * (step - 1) / steps);
    const logits = network.logits(state, {select: masked});
    const picks = masked.map((position, n) => {
      const here = logits.subarray(n * mask, (n + 1) * mask), p = softmax(here);
      const token = draw(here, p, temperature, random);
      let rank = order === "random" ? random() : order === "left_to_right" ? -position : RANKS[order](p, token);
      if (order in RANKS && noise > 0) rank -= noise * masked.length / total * Math.log(-Math.log(random() || TINY));
      return {position, token, p: p[token], rank};
    });
    picks.sort((a, b) => b.rank - a.rank || a.position - b.position);
    const chosen = picks.slice(0, quota);
    state = state.slice(); sure = sure.slice();
    for (const {position, token, p} of chosen) { state[position] = token; sure[position] = p; }
    yield {state, sure, fresh: chosen.map(pick => pick.position), ms: performance.now() - began};
  }
}

// An autoregressive model goes on from the first tokens of `start`, up to its first mask; it reads the token with id V
// as the beginning, and then, at each position, the token before.
function* write(network, start, {temperature, seed}) {
  const mask = network.vocabSize, random = generator(seed), cache = network.newCache();
  const first = start.indexOf(mask), steps = start.length - first;
  let state = Int32Array.from(start, (id, i) => i < first ? id : mask), ms = 0;
  let sure = Float32Array.from(state, id => id === mask ? 0 : 1);
  yield {step: 0, steps, state, fresh: [], again: [], sure, ms};
  let unread = [mask, ...state.subarray(0, first)];
  for (let i = first; i < start.length; i++) {
    const began = performance.now();
    const logits = network.logits(unread, {causal: true, cache, select: [unread.length - 1]});
    const p = softmax(logits), token = draw(logits, p, temperature, random);
    state = state.slice(); sure = sure.slice();
    state[i] = token; sure[i] = p[token];
    unread = [token];
    ms += performance.now() - began;
    yield {step: i - first + 1, steps, state, fresh: [i], again: [], sure, ms};
  }
}
