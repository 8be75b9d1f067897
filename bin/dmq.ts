import { runProcess } from "../src/cli/process.ts";

runProcess(process.argv.slice(2));
