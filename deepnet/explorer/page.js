const $ = id => document.getElementById(id);
const charts = JSON.parse($("charts").textContent);
const { curves, claims } = await unpack($("data").textContent);

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

const words = name => name.replaceAll("_", " ");
const distinct = values => [...new Set(values)];
const chosen = id => [...$(id).selectedOptions].map(option => option.value);

/** Fill a select with [value, text] pairs; `selected` are the values chosen at first. */
function fill(id, pairs, selected = []) {
  $(id).replaceChildren(...pairs.map(([value, text]) => new Option(text, value, false, selected.includes(value))));
}

/** Fill a select with groups: [name of the group, pairs]. */
function fillGroups(id, groups, selected = []) {
  $(id).replaceChildren(...groups.filter(([, pairs]) => pairs.length).map(([label, pairs]) => {
    const group = document.createElement("optgroup");
    group.label = label;
    group.append(...pairs.map(([value, text]) => new Option(text, value, false, selected.includes(value))));
    return group;
  }));
}

/** Draw a chart with these rows; `change` may alter its specification first. */
async function draw(place, name, rows, change = () => {}) {
  const spec = structuredClone(charts[name]);
  change(spec);
  spec.datasets = { rows };
  await vegaEmbed(place, spec, { actions: false, renderer: "svg" });
}

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  made.textContent = text;
  made.append(...children);
  return made;
}

/** Replace a table's content by a head and rows of texts or elements. */
function tabulate(id, head, rows) {
  const line = (tag, cells) =>
    element("tr", "", ...cells.map(cell => (cell instanceof Node ? element(tag, "", cell) : element(tag, cell))));
  $(id).replaceChildren(line("th", head), ...rows.map(cells => line("td", cells)));
}

// ---------------------------------------------------------------- runs

const chapters = distinct(curves.map(curve => curve.chapter)).sort();
const metrics = distinct(curves.flatMap(curve => Object.keys(curve.columns)));
const numeric = metrics.filter(metric => curves.some(curve => typeof curve.columns[metric]?.at(-1) === "number"));

fillGroups("run", chapters.map(chapter => [
  `Chapter ${chapter}`,
  distinct(curves.filter(curve => curve.chapter === chapter).map(curve => curve.run)).map(run => [run, run]),
]), ["MLP_4", "MLP_13", "MLP_23", "MLP_33"]);
fill("metric", numeric.map(metric => [metric, words(metric)]), ["train_loss", "test_accuracy"]);
const pairs = values => distinct(values).map(value => [String(value), String(value)]);
fill("profile", pairs(curves.map(curve => curve.profile)), ["paper"]);
fill("seed", pairs(curves.map(curve => curve.seed).sort((a, b) => a - b)));

function shownCurves() {
  const wanted = { run: chosen("run"), profile: chosen("profile"), seed: chosen("seed") };
  const fits = (curve, key) => (key !== "run" && !wanted[key].length) || wanted[key].includes(String(curve[key]));
  return curves.filter(curve => Object.keys(wanted).every(key => fits(curve, key)));
}

async function drawCurves() {
  const shown = shownCurves();
  const drawn = chosen("metric").filter(metric => shown.some(curve => metric in curve.columns));
  $("curves-of").replaceChildren(...drawn.flatMap(metric => {
    const place = element("div", "");
    place.className = "chart";
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", `${words(metric)} of ${distinct(shown.map(curve => curve.run)).join(", ")}`);
    return [element("h3", words(metric)), place];
  }));
  if (!drawn.length) $("curves-of").append(element("p", "None of the chosen runs has such a metric; choose others."));
  const places = $("curves-of").querySelectorAll(".chart");
  await Promise.all(drawn.map((metric, i) => draw(places[i], "curves", pointsOf(shown, metric), spec => {
    const axes = distinct(shown.filter(curve => metric in curve.columns).map(curve => curve.axis));
    for (const { encoding } of spec.layer) {
      encoding.x.title = axes.join(" or ");
      for (const told of encoding.tooltip ?? []) if (told.field === "x") told.title = encoding.x.title;
      if ($("log-x").checked || axes.includes("C")) encoding.x.scale = { type: "log" };
      if ($("log-y").checked) encoding.y.scale = { type: "log" };
    }
  })));
  tabulate("table", ["run", "profile", "seed", "ended as", ...drawn.map(words), "precision", "commit", "again"],
    shown.map(curve => [
      curve.run, curve.profile, curve.seed, curve.status, ...drawn.map(metric => curve.columns[metric]?.at(-1) ?? "–"),
      curve.precision, curve.commit.slice(0, 9), curve.verify ? element("code", curve.verify) : "–",
    ]));
}

/** The points of one metric; a logarithmic axis leaves out what is not above 0. */
function pointsOf(shown, metric) {
  const drawable = (value, id) => value !== null && (value > 0 || !$(id).checked);
  return shown.flatMap(({ run, profile, seed, commit, verify, x, columns }) =>
    (columns[metric] ?? []).map((value, i) => ({ run, profile, seed, commit: commit.slice(0, 9), verify, x: x[i], value }))
      .filter(point => drawable(point.x, "log-x") && drawable(point.value, "log-y")));
}

for (const id of ["run", "metric", "profile", "seed", "log-x", "log-y"]) $(id).addEventListener("change", drawCurves);

// ---------------------------------------------------------------- layers

const layered = curves.filter(curve => Object.keys(curve.layers).length);
const quantities = {
  gradient_log10_rms: "log10 of the gradient's RMS, mean over the epoch",
  update_log10_ratio: "log10 of the update's RMS over the weight's, mean over the epoch",
  probe_variance: "variance across images",
  probe_dead: "share of dead units",
  probe_distinct: "number of distinct outputs",
};
fillGroups("layer-run", distinct(layered.map(curve => curve.profile)).map(profile => [
  profile,
  layered.map((curve, i) => [String(i), `${curve.run}, seed ${curve.seed} (${profile})`, curve.profile])
    .filter(option => option[2] === profile),
]), [String(layered.findIndex(curve => curve.run === "MLP_33" && curve.profile === "paper"))]);

/** A new run or quantity: the slider goes over its epochs. */
async function chooseLayers() {
  const curve = layered[$("layer-run").value];
  const before = $("quantity").value;
  const has = Object.entries(quantities).filter(([name]) => name in curve.layers);
  fill("quantity", has, [before]);
  $("epoch").max = Math.max(...curve.x);
  await drawLayers();
}

async function drawLayers() {
  const curve = layered[$("layer-run").value];
  const quantity = $("quantity").value;
  const epoch = Number($("epoch").value);
  const rows = curve.layers[quantity].flatMap((values, i) => (values ?? []).map((value, layer) =>
    ({ epoch: curve.x[i], layer: layer + 1, value })));
  const here = rows.filter(row => row.epoch === epoch);
  const span = [Math.min(...rows.map(row => row.value)), Math.max(...rows.map(row => row.value))];
  $("epoch-shown").value = here.length ? `${epoch}` : `${epoch}: not recorded for the untrained model`;
  const scale = quantity === "probe_variance" && span[0] > 0 ? "log" : "linear";
  await draw("#map", "map", rows, spec => {
    spec.layer[0].encoding.color.scale.type = scale;
    spec.layer[1].data = { values: here.slice(0, 1) };
  });
  await draw("#layers", "layers", here, spec => {
    spec.encoding.y.scale = { type: scale, domain: span };
    spec.encoding.x.scale = { domain: [1, Math.max(...rows.map(row => row.layer))], nice: false, zero: false };
  });
}

$("layer-run").addEventListener("change", chooseLayers);
$("quantity").addEventListener("change", drawLayers);
$("epoch").addEventListener("input", drawLayers);

// ---------------------------------------------------------------- claims

const axes = ["epochs", "margin", "level", "without"];
const names = {
  epochs: epochs => ({ registered: "registered", last: "last", "last five": "mean of last five", best: "best" })[epochs],
  margin: margin => ({ 0.5: "half", 1: "registered", 2: "double" })[margin],
  level: level => `${Math.round(level * 100)} %${level === 0.95 ? " (registered)" : ""}`,
  without: seed => (seed === null ? "none" : `seed ${seed}`),
};
const headings = { epochs: "epochs", margin: "margin", level: "level", without: "seed left out" };
const described = setting => axes.map(axis => `${headings[axis]}: ${names[axis](setting[axis])}`).join("; ");
const entryOf = (claim, profile) => claims.find(entry => entry.claim === claim && entry.profile === profile);
const number = value => (value === null ? "–" : String(Number(value.toPrecision(4))));
let entry;

const profilesJudged = distinct(claims.map(({ profile }) => profile));
fill("claim", distinct(claims.map(({ claim }) => claim))
  .map(claim => [claim, `${claim} ${entryOf(claim, profilesJudged[0]).sentence}`]), ["3a"]);
fill("judged-in", profilesJudged.map(profile => [profile, profile]));
tabulate("ledger", ["claim", "what it says", ...profilesJudged.flatMap(name => [name, `same verdict (${name})`])],
  distinct(claims.map(({ claim }) => claim)).map(claim => [claim, entryOf(claim, profilesJudged[0]).sentence,
    ...profilesJudged.flatMap(name => [entryOf(claim, name).said, entryOf(claim, name).stands || "–"])]));

async function chooseClaim() {
  entry = entryOf($("claim").value, $("judged-in").value);
  for (const axis of axes) {
    const values = distinct(entry.settings.map(setting => setting[axis]));
    fill(`set-${axis}`, values.map(value => [JSON.stringify(value), names[axis](value)]));
  }
  $("registered").textContent = `${entry.said}, profile ${entry.profile}`;
  $("sentence").textContent = entry.sentence;
  $("rule").textContent = entry.rule;
  $("stands").textContent = entry.stands && `The verdict is the same ${entry.stands}.`;
  const deciding = entry.parts.findIndex(([[, verdict]]) => verdict === entry.verdicts[0]);
  fill("part", entry.parts.map((cells, i) => [String(i), cells[0][0]]), [String(deciding)]);
  await drawClaim();
}

/** The place of the chosen setting among those of the claim. */
function chosenSetting() {
  const values = axes.map(axis => JSON.parse($(`set-${axis}`).value));
  return entry.settings.findIndex(setting => axes.every((axis, i) => setting[axis] === values[i]));
}

async function drawClaim() {
  const place = chosenSetting();
  $("played").hidden = place === 0;
  $("played").replaceChildren(...(place === 0 ? [] : [
    element("p", "", element("strong", `Not the registered verdict. In another setting: ${entry.words[entry.verdicts[place]]}`)),
    element("p", `${described(entry.settings[place])}. Only the registered one counts: ${entry.said}.`),
  ]));
  tabulate("parts", ["part", place === 0 ? "verdict" : "verdict in this setting", "effect", "interval"],
    entry.parts.map(cells => cells[place]).map(([text, verdict, effect, low, high]) =>
      [text, entry.words[verdict], number(effect), low === null ? "–" : `${number(low)} to ${number(high)}`]));
  $("multiverse").hidden = entry.settings.length === 1;
  if (entry.settings.length === 1) return;
  const rows = entry.parts[$("part").value]
    .map(([, verdict, effect, low, high], i) => ({
      verdict: entry.words[verdict], claim: entry.words[entry.verdicts[i]], effect, low, high, registered: i === 0, chosen: i === place,
      ...Object.fromEntries(axes.map(axis => [headings[axis], names[axis](entry.settings[i][axis])])),
    }))
    .sort((a, b) => a.effect - b.effect)
    .map((row, rank) => ({ ...row, rank }));
  const inWords = spec => {
    const colours = [spec, ...(spec.layer ?? [])].map(({ encoding }) => encoding?.color.scale).filter(Boolean);
    for (const scale of colours) scale.domain = Object.values(entry.words);
  };
  await draw("#specification", "specification", rows, inWords);
  const choices = axes.reduce((sum, axis) => sum + $(`set-${axis}`).length, 0);
  await draw("#choices", "choices", rows, spec => {
    inWords(spec);
    spec.height = 15 * choices;
  });
}

/** A seed is left out of the registered setting only, so the choices exclude each other. */
function keepWithin(event) {
  const others = event.target.id === "set-without" ? ["epochs", "margin", "level"] : ["without"];
  for (const axis of others) $(`set-${axis}`).selectedIndex = 0;
  return drawClaim();
}

function reset() {
  for (const axis of axes) $(`set-${axis}`).selectedIndex = 0;
  return drawClaim();
}

for (const id of ["claim", "judged-in"]) $(id).addEventListener("change", chooseClaim);
for (const axis of axes) $(`set-${axis}`).addEventListener("change", keepWithin);
$("part").addEventListener("change", drawClaim);
$("reset").addEventListener("click", reset);

await drawCurves();
$("epoch").value = 1;
await chooseLayers();
await chooseClaim();
document.documentElement.dataset.ready = "yes";
