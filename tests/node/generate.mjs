// Writes the TypeScript types of OpenAPI documents: node generate.mjs FOLDER NAME …
// reads FOLDER/NAME.json and writes FOLDER/NAME.ts.
import { readFileSync, writeFileSync } from "node:fs";
import openapiTS, { astToString } from "openapi-typescript";

const [folder, ...names] = process.argv.slice(2);
for (const name of names) {
  const document = JSON.parse(readFileSync(`${folder}/${name}.json`, "utf8"));
  writeFileSync(`${folder}/${name}.ts`, astToString(await openapiTS(document)));
}
