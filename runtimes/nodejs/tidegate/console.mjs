// The function's log: `console.*` as Lambda's Node.js runtime writes it, into the pipe that stdout and stderr share.

import { writeSync } from "node:fs";
import { format } from "node:util";
import { describedAsJson, errorObject } from "./errors.mjs";

const STDOUT_FD = 1;
const FULL_PIPE_WAIT_MS = 1;

// Whether the function's configuration asks for one JSON object per line. Known only when it has been read.
let jsonLines = false;

const LEVELS = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];

// During Init there is no id, and Lambda's lines say "undefined" then.
let requestId;

// Where several invocations run at a time: their ids by what runs, and what takes the lines of one.
let running;
let writeOfInvocation;

/** Sets the id that later lines carry. */
export function setRequestId(id) {
  requestId = id;
}

/**
 * From now on lines belong to the invocation in whose asynchronous context they are written: `storage` is an
 * AsyncLocalStorage of ids, `write(id, Buffer)` takes them.
 */
export function tellInvocationsApart(storage, write) {
  running = storage;
  writeOfInvocation = write;
}

function runningId() {
  return running === undefined ? requestId : running.getStore();
}

/** Replaces the methods of `console`; those below the level that the function's configuration asks for do nothing. */
export function patchConsole() {
  const lowest = Math.max(0, LEVELS.indexOf(process.env.AWS_LAMBDA_LOG_LEVEL?.toUpperCase()));
  jsonLines = process.env.AWS_LAMBDA_LOG_FORMAT?.toUpperCase() === "JSON";
  const line = jsonLines ? jsonLine : textLine;
  for (const [priority, level] of LEVELS.entries()) {
    const method = level.toLowerCase();
    console[method] = priority < lowest ? () => {} : (...parameters) => writeLine(line(level, parameters));
  }
  console.log = console.info;
}

/** Logs a failure that the runtime reports, with Lambda's title for it ("Invoke Error", "Uncaught Exception"). */
export function logFailure(title, error) {
  const subject = error instanceof Error ? error : new Error(errorObject(error).errorMessage);
  if (jsonLines) {
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
      attribute(stream);
      return stream;
    };
    Object.defineProperty(process, name, { ...original, get });
  }
}

// What user code writes to a stream itself belongs to its invocation too.
function attribute(stream) {
  const original = stream.write;
  stream.write = function (chunk, encoding, callback) {
    const id = running?.getStore();
    if (id === undefined) {
      return original.call(this, chunk, encoding, callback);
    }
    writeOfInvocation(id, typeof chunk === "string" ? Buffer.from(chunk, encoding?.call ? undefined : encoding) : chunk);
    const written = typeof encoding === "function" ? encoding : callback;
    if (written) {
      process.nextTick(written);
    }
    return true;
  };
}

/** Writes a line before it returns; if nobody reads the log any more, that is no reason to fail. */
export function writeLine(text) {
  let rest = Buffer.from(text + "\n");
  const id = running?.getStore();
  if (id !== undefined) {
    writeOfInvocation(id, rest);
    return;
  }
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
  return `${new Date().toISOString()}\t${runningId()}\t${level}\t${format(...parameters)}`;
}

function jsonLine(level, parameters) {
  const entry = { timestamp: new Date().toISOString(), level, requestId: runningId() };
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
