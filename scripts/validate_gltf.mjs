// Check a glTF file with the Khronos validator and print its report as JSON.
//   npm install --no-save gltf-validator
//   node scripts/validate_gltf.mjs asset.glb
// The package is looked for below the current folder, then beside this script's project, then on NODE_PATH.
// Exit status: 0 no errors and no warnings, 1 some, 2 the validator is not installed.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";

const places = [process.cwd(), fileURLToPath(new URL("..", import.meta.url))];
const shared = (process.env.NODE_PATH ?? "").split(delimiter).filter(Boolean);

function findValidator() {
  for (const place of places) {
    try {
      return createRequire(join(place, "package.json"))("gltf-validator");
    } catch (error) {
      if (error.code !== "MODULE_NOT_FOUND") throw error;
    }
  }
  for (const folder of shared) {
    try {
      return createRequire(import.meta.url)(join(folder, "gltf-validator"));
    } catch (error) {
      if (error.code !== "MODULE_NOT_FOUND") throw error;
    }
  }
  return null;
}

const validator = findValidator();
if (validator === null) {
  console.error("gltf-validator is not installed: npm install --no-save gltf-validator");
  process.exit(2);
}
const path = process.argv[2];
const report = await validator.validateBytes(new Uint8Array(readFileSync(path)), { uri: basename(path) });
console.log(JSON.stringify(report, null, 1));
process.exit(report.issues.numErrors + report.issues.numWarnings > 0 ? 1 : 0);
