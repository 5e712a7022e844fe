package gk

import (
	"context"
	"fmt"
	"runtime"
	"strings"

	"github.com/alecthomas/kong"
)

type versionOfTool struct{}

func (*versionOfTool) Run(_ context.Context, t *tool) error {
	if t.out.json {
		return t.out.value(map[string]string{"version": t.version})
	}
	return t.out.say(fmt.Sprintf("gk %s %s %s/%s", t.version, runtime.Version(), runtime.GOOS, runtime.GOARCH))
}

type completion struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is the second paragraph of its --help.
func (completion) Help() string {
	return `It completes the command gk; where there is none, say alias gk='kateway gk'.

bash: source <(gk completion bash). zsh: source <(gk completion zsh), after compinit. fish: gk completion fish | source.`
}

func (c *completion) Run(_ context.Context, t *tool) error {
	var b strings.Builder
	words := wordsOf(t.model)
	switch c.Shell {
	case "bash":
		bash(&b, words)
	case "zsh":
		b.WriteString("autoload -Uz bashcompinit && bashcompinit\n")
		bash(&b, words)
	case "fish":
		fish(&b, words)
	}
	t.out.write("%s", b.String())
	return t.out.err
}

// place is what can follow a command, "" being gk itself.
type place struct {
	command  string // its words
	commands []word // that follow
	flags    []word
	values   []word // of its positional argument, where there is a choice
}

// word is a word with its help.
type word struct {
	text, help string
	takes      bool // a flag with a value
}

// wordsOf reads the model: a place for each command, those above before those below.
func wordsOf(app *kong.Application) []place {
	var out []place
	var walk func(n *kong.Node, path []string, flags []word)
	walk = func(n *kong.Node, path []string, flags []word) {
		p := place{command: strings.Join(path, " "), flags: append([]word{}, flags...)}
		for _, f := range n.Flags {
			if f.Hidden {
				continue
			}
			w := word{"--" + f.Name, f.Help, !f.IsBool()}
			p.flags = append(p.flags, w)
			if f.Short != 0 {
				p.flags = append(p.flags, word{"-" + string(f.Short), w.help, w.takes})
			}
			if f.Tag.Negatable != "" {
				p.flags = append(p.flags, word{"--no-" + f.Name, "Not so: " + f.Help, false})
			}
		}
		for _, child := range n.Children {
			p.commands = append(p.commands, word{text: child.Name, help: child.Help})
		}
		for _, arg := range n.Positional {
			if arg.Enum == "" {
				continue
			}
			for _, v := range arg.EnumSlice() {
				p.values = append(p.values, word{text: v, help: arg.Help})
			}
		}
		out = append(out, p)
		for _, child := range n.Children {
			walk(child, append(path[:len(path):len(path)], child.Name), p.flags)
		}
	}
	walk(app.Node, nil, nil)
	return out
}

// texts are the words without their help.
func texts(lists ...[]word) string {
	var out []string
	for _, list := range lists {
		for _, w := range list {
			out = append(out, w.text)
		}
	}
	return strings.Join(out, " ")
}

// bash writes a function that finds the command among the words typed so far, and offers what can follow.
func bash(b *strings.Builder, places []place) {
	b.WriteString(`_gk() {
  local cur=${COMP_WORDS[COMP_CWORD]} cmd= word skip= i
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    if [[ -n $skip ]]; then skip=; continue; fi
    case $word in
      *=*) ;;
`)
	fmt.Fprintf(b, "      %s) skip=1 ;;\n", strings.Join(withValue(places), "|"))
	b.WriteString(`      -*) ;;
      *) case "$cmd $word" in
`)
	var known []string
	for _, p := range places[1:] {
		name := `" ` + p.command + `"`
		if strings.Contains(p.command, " ") {
			name = `"` + p.command + `"`
		}
		known = append(known, name)
	}
	fmt.Fprintf(b, "        %s) cmd=\"${cmd:+$cmd }$word\" ;;\n", strings.Join(known, "|"))
	b.WriteString(`      esac ;;
    esac
  done
  if [[ -n $skip ]]; then COMPREPLY=($(compgen -f -- "$cur")); return; fi
  local words=
  case $cmd in
`)
	for _, p := range places {
		fmt.Fprintf(b, "    %q) words=%q ;;\n", p.command, texts(p.commands, p.values, p.flags))
	}
	b.WriteString(`  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _gk gk
`)
}

// withValue are the flags of all commands after which a value follows.
func withValue(places []place) []string {
	var out []string
	seen := map[string]bool{}
	for _, p := range places {
		for _, f := range p.flags {
			if f.takes && !seen[f.text] {
				seen[f.text] = true
				out = append(out, f.text)
			}
		}
	}
	return out
}

// fish writes a line for each word, with the commands after which it may stand.
func fish(b *strings.Builder, places []place) {
	b.WriteString("complete -c gk -f\n")
	top := texts(places[0].commands)
	for _, p := range places {
		condition := "__fish_seen_subcommand_from " + strings.ReplaceAll(p.command, " ", "; and __fish_seen_subcommand_from ")
		if p.command == "" {
			condition = "not __fish_seen_subcommand_from " + top
		} else if len(p.commands) > 0 {
			condition += "; and not __fish_seen_subcommand_from " + texts(p.commands)
		}
		line := func(w word, option string) {
			fmt.Fprintf(b, "complete -c gk -n %s %s -d %s\n", quote(condition), option, quote(firstSentence(w.help)))
		}
		for _, w := range append(p.commands[:len(p.commands):len(p.commands)], p.values...) {
			line(w, "-a "+w.text)
		}
		for _, f := range p.flags {
			option := "-l " + strings.TrimPrefix(f.text, "--")
			if !strings.HasPrefix(f.text, "--") {
				option = "-s " + strings.TrimPrefix(f.text, "-")
			}
			if f.takes {
				option += " -r -F"
			}
			line(f, option)
		}
	}
}

// quote is a word for fish.
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

func firstSentence(s string) string {
	first, _, _ := strings.Cut(s, ". ")
	return strings.TrimSuffix(first, ".")
}
