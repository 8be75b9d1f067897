/**
 * Where the control socket and the state are when nobody says so (design.md section 5). Daemon and commands share this
 * file, so that a command finds the daemon that the same user started.
 */
import { ConfigError } from "../core/errors.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

/** `sun_path` of unix(7) holds 108 octets with the final NUL. */
export const SOCKET_PATH_BYTES_MAX = 107;

const SOCKET_NAME = "dmq.sock";

/** Where a service of the machine listens. */
export const SYSTEM_SOCKET_PATH: string = `/run/dmq/${SOCKET_NAME}`;

/**
 * @returns the control socket's path: `DMQ_SOCKET`, else below `RUNTIME_DIRECTORY`, else below `XDG_RUNTIME_DIR`, else
 *          `/run/dmq/dmq.sock`; empty variables count as unset
 * @throws  ConfigError `config-invalid-value` if no socket can have that path
 */
export function controlSocketPath(env: Environment): string {
  return checkSocketPath(env.DMQ_SOCKET || defaultSocketPath(env));
}

/**
 * @returns the path itself
 * @throws  ConfigError `config-invalid-value` if it is empty, contains a NUL or is longer than a unix socket's may be
 */
export function checkSocketPath(path: string): string {
  const bytes = Buffer.byteLength(path);
  if (path === "" || path.includes("\0")) {
    throw new ConfigError("config-invalid-value", "socket", JSON.stringify(path), "the path of a unix socket");
  }
  if (bytes > SOCKET_PATH_BYTES_MAX) {
    const received = `${path} (${bytes} bytes)`;
    throw new ConfigError("config-invalid-value", "socket", received, `at most ${SOCKET_PATH_BYTES_MAX} bytes`);
  }
  return path;
}

/**
 * @returns the state directory: `STATE_DIRECTORY`, else `dmq` below `XDG_STATE_HOME` or `~/.local/state`, else
 *          `/var/lib/dmq`
 */
export function stateDirectory(env: Environment): string {
  const unit = firstOf(env.STATE_DIRECTORY);
  if (unit !== undefined) return unit;
  const state = absolute(env.XDG_STATE_HOME);
  if (state !== undefined) return below(state, "dmq");
  const home = absolute(env.HOME);
  if (home !== undefined) return below(home, ".local/state/dmq");
  return "/var/lib/dmq";
}

function defaultSocketPath(env: Environment): string {
  const unit = firstOf(env.RUNTIME_DIRECTORY);
  if (unit !== undefined) return below(unit, SOCKET_NAME);
  const runtime = absolute(env.XDG_RUNTIME_DIR);
  return runtime === undefined ? SYSTEM_SOCKET_PATH : below(runtime, `dmq/${SOCKET_NAME}`);
}

/** systemd.exec(5): several directories of a unit are separated by colons. */
function firstOf(list: string | undefined): string | undefined {
  return list?.split(":").find((entry) => entry !== "");
}

/** The XDG base directory specification: a relative path is invalid and is to be ignored. */
function absolute(path: string | undefined): string | undefined {
  return path?.startsWith("/") ? path : undefined;
}

function below(directory: string, name: string): string {
  return directory.endsWith("/") ? `${directory}${name}` : `${directory}/${name}`;
}
