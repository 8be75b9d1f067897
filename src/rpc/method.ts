/** What an RPC method is, and how one is made: parameters that are checked before it sees them. */
import { type ParamName, type Params, readParams, type Signature } from "./params.ts";
import type { ControlSurface } from "./surface.ts";

export interface Method extends Signature {
  help: string;
  /** @throws RpcFault, or what the surface throws */
  run(surface: ControlSurface, params: unknown): unknown;
}

interface Definition<R extends ParamName, O extends ParamName> {
  required?: readonly R[];
  optional?: readonly O[];
  kamailio?: boolean;
  help: string;
  run(surface: ControlSurface, params: Pick<Params, R> & Partial<Pick<Params, O>>): unknown;
}

/** Checks parameters before the method sees them; the types of `run` follow from the names. */
export function define<R extends ParamName = never, O extends ParamName = never>(definition: Definition<R, O>): Method {
  const { required = [], optional = [], kamailio = false, help, run } = definition;
  const signature: Signature = { required, optional, kamailio };
  return {
    ...signature,
    help,
    run: (surface, params) => run(surface, readParams(signature, params) as Parameters<typeof run>[1]),
  };
}
