// The function's log: `console.*` as Lambda's Node.js runtime writes it, into the pipe that stdout and stderr share.

import { writeSync } from "node:fs";
import { format } from "node:util";
import { describedAsJson, errorObject } from "./errors.mjs";

const STDOUT_FD = 1;
const FULL_PIPE_WAIT_MS = 1;

const JSON_LINES = process.env.AWS_LAMBDA_LOG_FORMAT?.toUpperCase() === "JSON";

const LEVELS = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];

// During Init there is no id, and Lambda's lines say "undefined" then.
let requestId;

/** Sets the id that later lines carry. */
export function setRequestId(id) {
  requestId = id;
}

/** Replaces the methods of `console`; those below the level that the function's configuration asks for do nothing. */
export function patchConsole() {
  const lowest = Math.max(0, LEVELS.indexOf(process.env.AWS_LAMBDA_LOG_LEVEL?.toUpperCase()));
  const line = JSON_LINES ? jsonLine : textLine;
  for (const [priority, level] of LEVELS.entries()) {
    const method = level.toLowerCase();
    console[method] = priority < lowest ? () => {} : (...parameters) => writeLine(line(level, parameters));
  }
  console.log = console.info;
}

/** Logs a failure that the runtime reports, with Lambda's title for it ("Invoke Error", "Uncaught Exception"). */
export function logFailure(title, error) {
  const subject = error instanceof Error ? error : new Error(errorObject(error).errorMessage);
  if (JSON_LINES) {
    console.error(subject);
  } else {
    console.error(title, "\t" + describedAsJson(subject));
  }
}

/**
 * Makes writes to process.stdout and process.stderr end before they return, like those of `console`: on a pipe Node.js
 * would keep what does not fit, and the daemon would see it too late or, after process.exit, never.
 */
export function makeStreamsBlocking() {
  for (const name of ["stdout", "stderr"]) {
    const original = Object.getOwnPropertyDescriptor(process, name);
    const get = () => {
      // The stream is made when it is first asked for, which many functions never do.
      const stream = original.get.call(process);
      Object.defineProperty(process, name, original);
      stream._handle?.setBlocking?.(true);
      return stream;
    };
    Object.defineProperty(process, name, { ...original, get });
  }
}

/** Writes a line before it returns; if nobody reads the log any more, that is no reason to fail. */
export function writeLine(text) {
  let rest = Buffer.from(text + "\n");
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(STDOUT_FD, rest));
    } catch (error) {
      if (error.code !== "EAGAIN") {
        return;
      }
      // A child process may make the shared pipe non-blocking. The wait ends when the daemon reads, or with the
      // function's time.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, FULL_PIPE_WAIT_MS);
    }
  }
}

function textLine(level, parameters) {
  return `${new Date().toISOString()}\t${requestId}\t${level}\t${format(...parameters)}`;
}

function jsonLine(level, parameters) {
  const entry = { timestamp: new Date().toISOString(), level, requestId };
  if (parameters.length === 1) {
    try {
      return JSON.stringify({ ...entry, message: parameters[0] }, (_name, value) => plainError(value));
    } catch {
      return JSON.stringify({ ...entry, message: format(parameters[0]) });
    }
  }
  const error = parameters.find((parameter) => parameter instanceof Error);
  return JSON.stringify({ ...entry, message: format(...parameters), ...(error && errorMembers(error)) });
}

function plainError(value) {
  return value instanceof Error ? { ...errorMembers(value), ...value } : value;
}

function errorMembers(error) {
  return {
    errorType: error.constructor?.name ?? "UnknownError",
    errorMessage: error.message,
    stackTrace: typeof error.stack === "string" ? error.stack.split("\n") : [],
  };
}
