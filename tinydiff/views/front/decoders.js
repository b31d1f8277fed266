// From masks to text, as in tinydiff/decoders: orders.py (which positions a step fills), draws.py (which token) and
// next_token.py (left to right). A decoder is a generator: it yields a frame per step, as soon as it is there.
//
// A frame: {step, steps, state, fresh, sure, ms}. `state` are token ids, MASK = V; `fresh` the positions filled in this
// step; `sure` the probability of each token when it was filled in, 1 where it was given; `ms` the time worked so far.

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

// Fill the masks of `start` in `steps` steps. `order` is one of RANKS, "random" or "left_to_right"; `noise`, the choice
// temperature, adds Gumbel noise to the ranks, less and less of it.
function* fill(network, start, {order, steps, temperature, noise, seed}) {
  const mask = network.vocabSize, random = generator(seed), total = start.filter(id => id === mask).length;
  if (![...Object.keys(RANKS), "random", "left_to_right"].includes(order))
    throw new Error(`there is no order ${order}`);
  if (!(1 <= steps && steps <= total))
    throw new Error(`steps is ${steps}; expected 1 to ${total}, the number of masks`);
  let state = Int32Array.from(start), sure = Float32Array.from(start, id => id === mask ? 0 : 1), ms = 0;
  yield {step: 0, steps, state, fresh: [], sure, ms};
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
    ms += performance.now() - began;
    yield {step, steps, state, fresh: chosen.map(pick => pick.position), sure, ms};
  }
}

// An autoregressive model goes on from the first tokens of `start`, up to its first mask; it reads the token with id V
// as the beginning, and then, at each position, the token before.
function* write(network, start, {temperature, seed}) {
  const mask = network.vocabSize, random = generator(seed), cache = network.newCache();
  const first = start.indexOf(mask), steps = start.length - first;
  let state = Int32Array.from(start, (id, i) => i < first ? id : mask), ms = 0;
  let sure = Float32Array.from(state, id => id === mask ? 0 : 1);
  yield {step: 0, steps, state, fresh: [], sure, ms};
  let unread = [mask, ...state.subarray(0, first)];
  for (let i = first; i < start.length; i++) {
    const began = performance.now();
    const logits = network.logits(unread, {causal: true, cache, select: [unread.length - 1]});
    const p = softmax(logits), token = draw(logits, p, temperature, random);
    state = state.slice(); sure = sure.slice();
    state[i] = token; sure[i] = p[token];
    unread = [token];
    ms += performance.now() - began;
    yield {step: i - first + 1, steps, state, fresh: [i], sure, ms};
  }
}
