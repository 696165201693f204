// Finds the function that `_HANDLER` names, in the order in which Lambda looks.

import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { HandlerNotFound, ImportModuleError, MalformedHandlerName, UserCodeSyntaxError } from "./errors.mjs";

/**
 * Loads the handler `name` ("folder/module.function", the function may be nested: "module.a.b") from the folder
 * `taskRoot`. `bootstrapUrl` is what failed `require`s are reported to come from. Throws the failures of `errors.mjs`
 * and whatever the module itself throws.
 */
export async function loadHandler(taskRoot, name, bootstrapUrl) {
  if (name.includes("..")) {
    throw new MalformedHandlerName(
      `'${name}' is not a valid handler name. Use absolute paths when specifying root directories in handler names.`,
    );
  }
  const file = basename(name);
  const folder = name.substring(0, name.lastIndexOf(file));
  const dot = file.indexOf(".");
  if (dot < 0) {
    throw new MalformedHandlerName("Bad handler");
  }
  const loader = new Loader(createRequire(bootstrapUrl), resolve(taskRoot, folder), file.substring(0, dot));
  const module = await loadOrExplain(() => loader.load(taskRoot, folder));
  const handler = file
    .substring(dot + 1)
    .split(".")
    .reduce((object, key) => object?.[key], module);
  if (!handler) {
    throw new HandlerNotFound(`${name} is undefined or not exported`);
  }
  if (typeof handler !== "function") {
    throw new HandlerNotFound(`${name} is not a function`);
  }
  return handler;
}

async function loadOrExplain(load) {
  try {
    return await load();
  } catch (error) {
    if (error instanceof SyntaxError) {
      throw new UserCodeSyntaxError(error);
    }
    if (error?.code === "MODULE_NOT_FOUND") {
      throw new ImportModuleError(error);
    }
    throw error;
  }
}

class Loader {
  constructor(require, folder, module) {
    this.require = require;
    this.module = module;
    this.path = join(folder, module);
  }

  async load(taskRoot, folder) {
    for (const extension of [".js", ".mjs", ".cjs"]) {
      const file = this.path + extension;
      if (existsSync(file)) {
        const isModule = extension === ".mjs" || (extension === ".js" && inModulePackage(dirname(file)));
        return isModule ? await import(pathToFileURL(file).href) : this.require(file);
      }
    }
    if (existsSync(this.path)) {
      // A folder with an entry point, or a file without extension.
      return this.require(this.path);
    }
    // A package of the function or of a layer.
    return this.require(this.require.resolve(this.module, { paths: [taskRoot, folder] }));
  }
}

/** Whether the nearest package.json at or above `folder` says "type": "module", as Node.js decides it. */
function inModulePackage(folder) {
  if (folder.endsWith("/node_modules")) {
    return false;
  }
  const description = join(folder, "package.json");
  if (existsSync(description)) {
    try {
      return JSON.parse(readFileSync(description, "utf8"))?.type === "module";
    } catch (error) {
      console.warn(`${description} cannot be read, it will be ignored for ES module detection purposes.`, error);
      return false;
    }
  }
  const above = dirname(folder);
  return above !== folder && inModulePackage(above);
}
