// A process that was started before its function was known: waits for it, and becomes what it would be otherwise.

import { readSync } from "node:fs";
import Module from "node:module";
import { FD, Kind, PREFIX_BYTES, parsedFrame } from "./channel.mjs";

const ASSIGNMENT_BYTES_MAX = 1024 * 1024;

/** Returns when the first frame has said what this process is for; nothing else can happen meanwhile. */
export function waitForFunction() {
  const prefix = read(PREFIX_BYTES);
  const frameBytes = prefix.readUInt32LE(0) + 4;
  if (frameBytes < PREFIX_BYTES || frameBytes > ASSIGNMENT_BYTES_MAX) {
    process.exit(1);
  }
  const { kind, header } = parsedFrame(Buffer.concat([prefix, read(frameBytes - PREFIX_BYTES)]));
  if (kind !== Kind.ASSIGN) {
    process.exit(1);
  }
  takeOver(header.environment);
}

function read(bytes) {
  const octets = Buffer.alloc(bytes);
  let filled = 0;
  while (filled < bytes) {
    const got = readSync(FD, octets, filled, bytes - filled, null);
    if (got === 0) {
      // The platform does not need this process any more.
      process.exit(0);
    }
    filled += got;
  }
  return octets;
}

function takeOver(environment) {
  for (const name of Object.keys(process.env)) {
    if (!Object.hasOwn(environment, name)) {
      delete process.env[name];
    }
  }
  Object.assign(process.env, environment);
  // NODE_PATH is read when Node.js starts.
  Module._initPaths?.();
  process.chdir(environment.LAMBDA_TASK_ROOT);
}
