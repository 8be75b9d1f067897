/**
 * Completion scripts. Commands, options and choices stand in them; nodes and channels are asked for with `dmq completion
 * nodes` when somebody completes. Node URIs have colons and semicolons in them, which each shell has its own trouble with.
 */
import { type ArgumentInfo, type CommandInfo, flattened, type OptionInfo } from "./describe.ts";

/** What completes a place, in a word of the bash script: a kind, `choices:a,b`, or `any`. */
function wordFor({ choices, kind }: Pick<ArgumentInfo, "choices" | "kind">): string {
  return choices === null ? (kind ?? "any") : `choices:${choices.join(",")}`;
}

function flagsOf({ flag, short, settable }: OptionInfo): string[] {
  return [`--${flag}`, ...(settable ? [`--no-${flag}`] : []), ...(short === null ? [] : [`-${short}`])];
}

// --- bash ------------------------------------------------------------------------------------------------------------

/** For bash 4 and later, without the package bash-completion. */
export function bashScript(commands: readonly CommandInfo[]): string {
  const all = flattened(commands);
  const groups = commands.filter((command) => command.commands.length > 0);
  const options = all.map(({ name, options }) => `    "${name}") echo "${options.flatMap(flagsOf).join(" ")}" ;;`);
  const values = all.flatMap(({ name, options }) =>
    options
      // One that may be missing is in the same word.
      .filter(({ value, optional_value: isOptional }) => value !== null && !isOptional)
      .map((option) => {
        const patterns = flagsOf(option).map((flag) => `"${name} ${flag}"`);
        return `    ${patterns.join(" | ")}) echo "${wordFor(option)}" ;;`;
      }),
  );
  const places = all.flatMap(({ name, arguments: words }) =>
    words.map(
      (one, index) =>
        `    "${name} ${one.repeatable ? "" : index + 1}"${one.repeatable ? "*" : ""}) echo "${wordFor(one)}" ;;`,
    ),
  );
  places.push(
    ...groups.map(({ name, commands: own }) => `    "${name} 1") echo "choices:${own.map(lastWord).join(",")}" ;;`),
  );
  return `# bash completion of dmq, made by: dmq completion bash
# Whether command $1 has commands of its own.
_dmq_group() {
  case "$1" in
${groups.map(({ name }) => `    ${name}) return 0 ;;`).join("\n")}
  esac
  return 1
}
_dmq_options() {
  case "$1" in
${options.join("\n")}
  esac
}
# What stands behind option $2 of command $1; nothing behind a switch.
_dmq_value() {
  case "$1 $2" in
${values.join("\n")}
  esac
}
# What stands at place $2 of command $1.
_dmq_argument() {
  case "$1 $2" in
${places.join("\n")}
  esac
}
_dmq_words() {
  case "$1" in
    nodes | channels | queues) dmq completion "$1" 2>/dev/null ;;
    commands) printf '%s\\n' ${commands.map(({ name }) => name).join(" ")} ;;
    choices:*) local list=\${1#choices:}; printf '%s\\n' \${list//,/ } ;;
  esac
}
_dmq() {
  local line=\${COMP_LINE:0:COMP_POINT} cur word command= option= place=1 what= i
  local -a before
  # Bash takes colons and equals signs for ends of words, so the line is cut at spaces here.
  cur=\${line##*[[:space:]]}
  read -r -a before <<<"\${line%"$cur"}"
  COMPREPLY=()
  for ((i = 1; i < \${#before[@]}; i++)); do
    word=\${before[i]}
    if [[ -n $option ]]; then
      option=
    elif [[ -z $command ]]; then
      case $word in
        -s | --socket) option=$word ;;
        -*) ;;
        *) command=$word ;;
      esac
    elif _dmq_group "$command"; then
      case $word in
        -s | --socket) option=$word ;;
        -*) ;;
        *) command="$command $word" ;;
      esac
    elif [[ $word == -?* ]]; then
      [[ $word != *=* && -n $(_dmq_value "$command" "$word") ]] && option=$word
    else
      ((place++))
    fi
  done
  local cut=
  if [[ -n $option ]]; then
    what=$(_dmq_value "\${command:-send}" "$option")
  elif [[ -z $command && $cur == -* ]]; then
    what=choices:--help,--version,--socket
  elif [[ -z $command ]]; then
    what=commands
  elif [[ $cur == --*=* ]]; then
    what=$(_dmq_value "$command" "\${cur%%=*}")
    [[ $COMP_WORDBREAKS == *=* ]] || cut=\${cur%%=*}=
    cur=\${cur#*=}
  elif [[ $cur == -* ]]; then
    what=choices:$(_dmq_options "$command")
    what=\${what// /,}
  else
    what=$(_dmq_argument "$command" "$place")
  fi
  local IFS=$'\\n'
  case $what in
    files) COMPREPLY=($(compgen -f -- "$cur")) && compopt -o filenames 2>/dev/null ;;
    directories) COMPREPLY=($(compgen -d -- "$cur")) && compopt -o filenames 2>/dev/null ;;
    '' | any) return 0 ;;
    *) COMPREPLY=($(IFS=$' \\t\\n'; compgen -W '$(_dmq_words "$what")' -- "$cur")) ;;
  esac
  local colon=
  [[ $COMP_WORDBREAKS == *:* && $cur == *:* ]] && colon=\${cur%"\${cur##*:}"}
  for i in "\${!COMPREPLY[@]}"; do
    word=\${COMPREPLY[i]#"$colon"}
    # The semicolon of ;transport=tcp would end the command.
    [[ $what == files || $what == directories ]] || printf -v word '%q' "$word"
    COMPREPLY[i]=$cut$word
  done
  return 0
}
complete -F _dmq dmq
`;
}

/** `add` of `queue add`. */
function lastWord({ name }: CommandInfo): string {
  return name.slice(name.lastIndexOf(" ") + 1);
}

// --- zsh -------------------------------------------------------------------------------------------------------------

export function zshScript(commands: readonly CommandInfo[]): string {
  const described = commands.map(zshDescribed);
  const cases = commands.map(zshCase);
  return `#compdef dmq
# zsh completion of dmq, made by: dmq completion zsh
_dmq_nodes() {
  local -a found
  found=(\${(f)"$(dmq completion nodes 2>/dev/null)"})
  compadd -a found
}
_dmq_channels() {
  local -a found
  found=(\${(f)"$(dmq completion channels 2>/dev/null)"})
  compadd -a found
}
_dmq_queues() {
  local -a found
  found=(\${(f)"$(dmq completion queues 2>/dev/null)"})
  compadd -a found
}
_dmq_commands() {
  compadd ${commands.map(({ name }) => name).join(" ")}
}
_dmq() {
  local context state state_descr line
  typeset -A opt_args
  _arguments -C '(-s --socket)'{-s,--socket}'[control socket of the daemon]:PATH:_files' \\
    '(- *)'{-h,--help}'[help]' '(- *)'{-V,--version}'[version]' '1:command:->command' '*::argument:->argument'
  case $state in
    command)
      local -a commands
      commands=(
${described.join("\n")}
      )
      _describe command commands
      ;;
    argument)
      case $words[1] in
${cases.join("\n")}
      esac
      ;;
  esac
}
if [ "$funcstack[1]" = _dmq ]; then _dmq "$@"; else compdef _dmq dmq; fi
`;
}

function zshDescribed(command: CommandInfo): string {
  return `        ${single(`${lastWord(command)}:${colons(command.summary)}`)}`;
}

function zshCase(command: CommandInfo): string {
  const { commands } = command;
  const places = `_arguments ${zshPlaces(command).join(" \\\n            ")}`;
  const body = commands.length === 0 ? places : zshGroup(commands);
  return `        ${lastWord(command)})\n          ${body}\n          ;;`;
}

/** A command whose first word is again a command. */
function zshGroup(commands: readonly CommandInfo[]): string {
  return `_arguments -C '(-s --socket)'{-s,--socket}'[control socket of the daemon]:PATH:_files' \\
            '(- *)'{-h,--help}'[help]' '1:command:->own' '*::argument:->argument'
          case $state in
            own)
              local -a own
              own=(
${commands.map(zshDescribed).join("\n")}
              )
              _describe command own
              ;;
            argument)
              case $words[1] in
${commands.map(zshCase).join("\n")}
              esac
              ;;
          esac`;
}

function zshPlaces({ options, arguments: places }: CommandInfo): string[] {
  const flags = options.flatMap((option) =>
    flagsOf(option).map((flag) => {
      const star = option.repeatable ? "*" : "";
      const colon = option.optional_value ? "::" : ":";
      const value = option.value === null ? "" : `${colon}${colons(option.value)}:${zshAction(option)}`;
      const equals = option.value !== null && flag.startsWith("--") ? (option.optional_value ? "=-" : "=") : "";
      return single(`${star}${flag}${equals}[${brackets(option.help)}]${value}`);
    }),
  );
  const rest = places.map((place, index) => {
    const at = place.repeatable ? "*" : `${index + 1}`;
    return single(`${at}:${place.required || place.repeatable ? "" : ":"}${colons(place.name)}:${zshAction(place)}`);
  });
  return [...flags, ...rest];
}

function zshAction({ choices, kind }: Pick<ArgumentInfo, "choices" | "kind">): string {
  if (choices !== null) return `(${choices.join(" ")})`;
  if (kind === "files") return "_files";
  if (kind === "directories") return "_files -/";
  return kind === null ? " " : `_dmq_${kind}`;
}

function colons(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll(":", "\\:");
}

function brackets(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("[", "\\[").replaceAll("]", "\\]");
}

function single(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

// --- fish ------------------------------------------------------------------------------------------------------------

export function fishScript(commands: readonly CommandInfo[]): string {
  const lines = commands.flatMap((command) => {
    const { name, summary } = command;
    const own = command.commands.length > 0 ? fishGroup(command) : fishCommand(`__dmq_in ${name}`, command);
    return [`complete -c dmq -n __dmq_at -a ${name} -d ${fishQuoted(summary)}`, ...own];
  });
  return `# fish completion of dmq, made by: dmq completion fish
# The first $argv words of the line that are no options: the command, and where it has commands of its own, that one.
function __dmq_words
    set -l words (commandline -opc)
    set -e words[1]
    set -l found
    while set -q words[1]; and test (count $found) -lt $argv[1]
        switch $words[1]
            case -s --socket
                set -e words[1]
            case '-*'
            case '*'
                set -a found $words[1]
        end
        set -q words[1]; and set -e words[1]
    end
    string join ' ' $found
end
# Whether the line is one of this command.
function __dmq_in
    test (__dmq_words (count $argv) | string collect -a) = "$argv"
end
# Whether nothing stands behind it yet.
function __dmq_at
    test (__dmq_words (math (count $argv) + 1) | string collect -a) = "$argv"
end
# Whether place $argv[2] is next, of a command of $argv[1] words whose options $argv[4..] have values; 1 at $argv[3]: that or a later one.
function __dmq_place
    set -l words (commandline -opc)
    set -e words[1]
    set -l left $argv[1]
    set -l place 1
    while set -q words[1]
        if string match -q -- '-?*' $words[1]
            contains -- $words[1] -s --socket $argv[4..]; and set -e words[1]
        else if test $left -gt 0
            set left (math $left - 1)
        else
            set place (math $place + 1)
        end
        set -q words[1]; and set -e words[1]
    end
    test $place -eq $argv[2]; or test $argv[3] -eq 1 -a $place -gt $argv[2]
end
function __dmq_commands
    printf '%s\\n' ${commands.map(({ name }) => name).join(" ")}
end
complete -c dmq -f
complete -c dmq -n __dmq_at -s s -l socket -r -F -d 'control socket of the daemon'
complete -c dmq -n __dmq_at -s h -l help -d help
complete -c dmq -n __dmq_at -s V -l version -d version
${lines.join("\n")}
`;
}

/** A command whose first word is again a command. */
function fishGroup({ name, commands }: CommandInfo): string[] {
  return commands.flatMap((command) => [
    `complete -c dmq -n '__dmq_at ${name}' -a ${lastWord(command)} -d ${fishQuoted(command.summary)}`,
    ...fishCommand(`__dmq_in ${command.name}`, command),
  ]);
}

function fishCommand(condition: string, { name, options, arguments: places }: CommandInfo): string[] {
  const begin = `complete -c dmq -n '${condition}`;
  const valued = options.filter((option) => option.value !== null && !option.optional_value).flatMap(flagsOf);
  return [
    ...options.flatMap((option) => fishOption(`${begin}'`, option)),
    ...places.flatMap((place, index) => {
      if (place.choices === null && place.kind === null) return [];
      const at = [name.split(" ").length, index + 1, place.repeatable ? 1 : 0, ...valued].join(" ");
      return `${begin}; and __dmq_place ${at}' ${fishValue(place)}`;
    }),
  ];
}

function fishOption(begin: string, option: OptionInfo): string[] {
  const short = option.short === null ? "" : ` -s ${option.short}`;
  const value = option.value === null || option.optional_value ? "" : ` -r ${fishValue(option)}`;
  const negated = option.settable ? [`${begin} -l no-${option.flag}`] : [];
  return [`${begin} -l ${option.flag}${short}${value} -d ${fishQuoted(option.help)}`, ...negated];
}

function fishValue({ choices, kind }: Pick<ArgumentInfo, "choices" | "kind">): string {
  if (choices !== null) return `-f -a ${fishQuoted(choices.join(" "))}`;
  switch (kind) {
    case "files":
      return "-F";
    case "directories":
      return "-f -a '(__fish_complete_directories)'";
    case "commands":
      return "-f -a '(__dmq_commands)'";
    case null:
      return "-f";
    default:
      return `-f -a '(dmq completion ${kind} 2>/dev/null)'`;
  }
}

function fishQuoted(text: string): string {
  return `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
}
