//go:build linux

package integration

import (
	"context"
	"encoding/csv"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// vpncmd drives SoftEther's own tools. It prompts for ever where an argument is
// missing, hence no standard input and a limit of time.
func vpncmd(t testing.TB, ns *netns, target []string, lines ...string) string {
	t.Helper()
	needTool(t, "vpncmd", "softether-vpncmd")
	file := filepath.Join(run.dir, fmt.Sprintf("vpncmd-%d", logNumber.Add(1)))
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file)
	argv := append([]string{"vpncmd"}, target...)
	cmd := ns.Command(append(argv, "/CSV", "/IN:"+file)...)
	out, err := runLimited(cmd, 30*time.Second)
	if err != nil || strings.Contains(out, "Error occurred") {
		t.Fatalf("vpncmd %s: %v\n%s", strings.Join(lines, "; "), err, out)
	}
	return out
}

// runLimited runs cmd to its end or kills it.
func runLimited(cmd *exec.Cmd, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		if cmd.Process != nil {
			cmd.Process.Kill()
		}
	})
	defer stop()
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("no end within %v: %w", limit, err)
	}
	return string(out), err
}

// table finds the CSV table whose header starts with column and returns its rows by column name.
func table(t testing.TB, out, column string) []map[string]string {
	t.Helper()
	_, body, found := strings.Cut(out, "\n"+column+",")
	if !found {
		t.Fatalf("vpncmd: no table %q in:\n%s", column, out)
	}
	body, _, _ = regexpCut(body, prompt)
	r := csv.NewReader(strings.NewReader(column + "," + body))
	r.FieldsPerRecord = -1
	records, err := r.ReadAll()
	if err != nil || len(records) == 0 {
		t.Fatalf("vpncmd: table %q: %v in:\n%s", column, err, out)
	}
	var rows []map[string]string
	for _, record := range records[1:] {
		row := make(map[string]string)
		for i, value := range record[:min(len(record), len(records[0]))] {
			row[records[0][i]] = value
		}
		rows = append(rows, row)
	}
	return rows
}

var prompt = regexp.MustCompile(`(?m)^VPN (Server|Client)(/[^>]*)?>`)

func regexpCut(s string, re *regexp.Regexp) (before, after string, found bool) {
	at := re.FindStringIndex(s)
	if at == nil {
		return s, "", false
	}
	return s[:at[0]], s[at[1]:], true
}
