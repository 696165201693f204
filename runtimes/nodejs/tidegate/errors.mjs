// Failures as Lambda's Node.js runtime reports them.

import { types } from "node:util";

/** The runtime's own failures; the names are Lambda's. */
export class ImportModuleError extends Error {}
export class HandlerNotFound extends Error {}
export class MalformedHandlerName extends Error {}
export class UserCodeSyntaxError extends Error {}
export class UnhandledPromiseRejection extends Error {
  constructor(reason, promise) {
    super(reason);
    this.reason = reason;
    this.promise = promise;
  }
}

for (const failure of [
  ImportModuleError,
  HandlerNotFound,
  MalformedHandlerName,
  UserCodeSyntaxError,
  UnhandledPromiseRejection,
]) {
  // On the prototype, so that it is no property of its own in logs, and is in the first line of the stack.
  failure.prototype.name = `Runtime.${failure.name}`;
}

/** The error object for the caller: `{errorType, errorMessage, trace}`, for whatever user code threw. */
export function errorObject(error) {
  try {
    if (types.isNativeError(error) || looksLikeError(error)) {
      return { errorType: error.name, errorMessage: error.message, trace: error.stack.split("\n") };
    }
    return { errorType: typeof error, errorMessage: String(error), trace: [] };
  } catch {
    // Getters that throw, an object without a string form, a stack that was overwritten.
    return {
      errorType: "handled",
      errorMessage:
        "callback called with Error argument, but there was a problem while retrieving one or more of its message, " +
        "name, and stack",
      trace: [],
    };
  }
}

/** The error as JSON for the log, with all its members and those of errors inside it. */
export function describedAsJson(error) {
  try {
    return JSON.stringify(error, (_name, value) => (value instanceof Error ? withMembers(value) : value));
  } catch {
    return JSON.stringify(errorObject(error));
  }
}

function withMembers(error) {
  const members = { errorType: error.name, errorMessage: error.message, code: error.code, ...error };
  if (typeof error.stack === "string") {
    members.stack = error.stack.split("\n");
  }
  return members;
}

// Errors of another realm (the `vm` module) are no instances of our Error.
function looksLikeError(value) {
  return ["name", "message", "stack"].every((name) => typeof value?.[name] === "string" && value[name] !== "");
}
