// Runs the checks of pyodide.py in Pyodide: `node pyodide.mjs FOLDER URL`. FOLDER holds what `nox -s pyodide`
// installs; a gateway listens at URL.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, url] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(`${folder}/node_modules/pyodide/pyodide.mjs`));
const pyodide = await loadPyodide({ env: { HOME: "/home/pyodide", DOTTXT_API_KEY: "key", DOTTXT_BASE_URL: url } });
pyodide.FS.mkdir("/packages");
pyodide.mountNodeFS("/packages", `${folder}/packages`);
for (const [source, name] of [["../dottxt.py", "dottxt.py"], ["pyodide.py", "checks.py"]]) {
  pyodide.FS.writeFile(name, readFileSync(new URL(source, import.meta.url)));
}
await pyodide.runPythonAsync("import sys; sys.path.append('/packages'); import checks; await checks.run()");
process.exit(); // though a response may still be open
