/** Nothing: what is left of a command's time is the runtime's (bench/cli.ts). */
export {};
