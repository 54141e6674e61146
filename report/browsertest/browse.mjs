// Opens pages in a real browser, looks at them, and prints what it saw as
// JSON. What should be there is for the Go test to say, which asks the engine.
import { chromium } from "playwright-core";
import { pathToFileURL } from "node:url";

const patience = 120_000; // milliseconds: the machine may be busy
let input = "";
for await (const chunk of process.stdin) input += chunk;
const { executable, jobs } = JSON.parse(input);

const browser = await chromium.launch({ executablePath: executable, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"], timeout: patience });
const out = [];
for (const job of jobs) out.push(await look(job));
await browser.close();
console.log(JSON.stringify(out));

async function look(job) {
  const context = await browser.newContext({ offline: true, colorScheme: job.scheme, viewport: { width: 1500, height: 900 } });
  const page = await context.newPage();
  page.setDefaultTimeout(patience);
  const seen = { console: [], requests: [], cells: [], explained: [], searched: {}, notes: [] };
  page.on("console", m => seen.console.push(m.type() + ": " + m.text()));
  page.on("pageerror", e => seen.console.push("uncaught: " + e.message));
  page.on("dialog", d => { seen.console.push("dialog: " + d.message()); d.dismiss(); });
  const url = pathToFileURL(job.page).href;
  page.on("request", r => { if (r.url() !== url) seen.requests.push(r.url()); });
  await page.goto(url);
  seen.background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  seen.foreign = await page.evaluate(() => [...document.querySelectorAll("img,iframe,object,embed,link:not([rel=icon]),base,form[action]")].length + document.scripts.length - 2);
  seen.notes = await page.evaluate(() => [...document.querySelectorAll(".note")].filter(x => !x.closest("noscript")).map(x => x.textContent));
  seen.cells = await page.evaluate(cells);
  if (job.explain) seen.explained = await page.evaluate(explainAll);
  for (const s of job.searches || []) {
    for (const [id, text] of Object.entries(s)) await page.fill("#" + id, text);
    seen.searched[JSON.stringify(s)] = { cells: await page.evaluate(cells), vertices: await page.evaluate(vertices) };
    for (const id of Object.keys(s)) await page.fill("#" + id, "");
  }
  if (job.mouse) seen.mouse = await mouse(page, job.mouse);
  if (job.shots) await shoot(page, job);
  await page.click("#show-graph");
  seen.graph = await page.evaluate(graph);
  if (job.shots) await page.screenshot({ path: job.shots + "-graph.png" });
  await context.close();
  return seen;
}

// cells lists the squares that are drawn.
function cells() {
  return [...document.querySelectorAll("#grid td")].map(td => ({ title: td.title, class: td.className, text: td.textContent }));
}

function vertices() {
  return [...document.querySelectorAll("svg.graph .node:not(.gone) title")].map(t => t.textContent);
}

// explainAll presses every cell that is a pair of pods and reads the panel.
function explainAll() {
  const out = [];
  for (const td of document.querySelectorAll("#grid td")) {
    td.click();
    const why = document.getElementById("why"), doors = [];
    for (const h of why.querySelectorAll("h3")) {
      const d = { title: h.textContent, says: [], policies: [] };
      for (let e = h.nextElementSibling; e && e.tagName !== "H3"; e = e.nextElementSibling) {
        for (const li of e.querySelectorAll("li")) d.says.push({ verdict: li.className, ports: li.querySelector(".ports").textContent, why: li.querySelector(".small").textContent });
        for (const p of e.querySelectorAll(".policy")) d.policies.push(p.textContent);
      }
      doors.push(d);
    }
    out.push({ cell: td.title, title: why.querySelector("h2").textContent, verdict: why.querySelector(".verdict").textContent, doors, command: why.querySelector("code")?.textContent || "", selected: td.getAttribute("aria-selected") });
  }
  document.querySelector("#why .close").click();
  return out;
}

// graph presses every line and every node.
function graph() {
  const svg = document.querySelector("svg.graph");
  if (!svg) return null;
  const press = e => { e.dispatchEvent(new MouseEvent("click", { bubbles: true })); return document.querySelector("#why h2").textContent; };
  const boxes = [...svg.querySelectorAll(".box rect, .node rect")].map(r => r.getBBox());
  const view = svg.viewBox.baseVal;
  const out = {
    arcs: [...svg.querySelectorAll(".arc")].map(a => ({ title: a.querySelector("title").textContent, opens: press(a) })),
    nodes: [...svg.querySelectorAll(".node")].map(n => ({ title: n.querySelector("title").textContent, opens: press(n) })),
    namespaces: [...svg.querySelectorAll(".box text")].map(t => t.textContent),
    outside: boxes.filter(b => b.x < 0 || b.y < 0 || b.x + b.width > view.width || b.y + b.height > view.height).length,
  };
  document.querySelector("#why .close").click();
  return out;
}

// mouse uses the page as people do: a real click, keys, Escape.
async function mouse(page, title) {
  const out = {};
  const td = page.locator(`#grid td[title^=${JSON.stringify(title)}]`);
  await td.click();
  out.clicked = await page.textContent("#why h2");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  out.right = await page.textContent("#why h2");
  out.focused = await page.evaluate(() => document.activeElement.title);
  await page.keyboard.press("Escape");
  out.shut = await page.isHidden("#why");
  await page.keyboard.press("/");
  out.slash = await page.evaluate(() => document.activeElement.id);
  await page.fill("#from", "web");
  out.hash = await page.evaluate(() => location.hash);
  await page.fill("#from", "");
  await page.click("#theme");
  out.toggled = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await page.click("#theme");
  return out;
}

async function shoot(page, job) {
  const path = job.shots;
  await page.screenshot({ path: path + "-matrix.png" });
  const first = page.locator("#grid td:not(.deny):not(.self):not(.na)").first();
  if (await first.count()) {
    await first.click();
    await page.screenshot({ path: path + "-why.png" });
    await page.keyboard.press("Escape");
  }
}
