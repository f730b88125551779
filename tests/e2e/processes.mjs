// Whose processes are these? Read from Linux's /proc: a server's processes are known by the TMPDIR it was
// started with, which stands in the environment or on the command line of each of them.

import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { basename } from "node:path";

export const canSeeProcesses = process.platform === "linux";

const read = (pid, file) => {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "latin1").replaceAll("\0", " ");
  } catch {
    return ""; // it has just ended, or is not ours to see
  }
};

const program = (pid) => {
  try {
    return basename(readlinkSync(`/proc/${pid}/exe`));
  } catch {
    return ""; // ended, but its parent has not yet asked how: it holds nothing any more
  }
};

/** Every living process that was started for the server with this TMPDIR. */
export function processesOf(tmpdir) {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .map((pid) => ({ pid: Number(pid), program: program(pid), command: read(pid, "cmdline").trim() }))
    .filter(({ pid, program, command }) => program && (command.includes(tmpdir) || read(pid, "environ").includes(tmpdir)));
}

/** The browsers among them: one main process each. Its helpers have a `--type`, the script that starts it is a shell. */
export const browsersOf = (tmpdir) =>
  processesOf(tmpdir).filter(
    ({ program, command }) =>
      command.includes("--user-data-dir=") && !command.includes("--type=") && !/^(da|ba)?sh$/.test(program),
  );
