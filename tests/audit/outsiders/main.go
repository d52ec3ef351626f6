// Reads one JSON object a line and tells, a line each, what Go's sumdb/note and sumdb/tlog make of it: "ok" or an error.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type question struct {
	Kind    string
	Vkey    string
	Note    string
	Proof   []string
	Size    int64
	Root    string
	Index   int64
	Record  string
	OldSize int64
	OldRoot string
}

func hash(text string) tlog.Hash {
	found, err := tlog.ParseHash(text)
	if err != nil {
		panic(err)
	}
	return found
}

func hashes(texts []string) []tlog.Hash {
	var found []tlog.Hash
	for _, text := range texts {
		found = append(found, hash(text))
	}
	return found
}

func ask(q question) error {
	switch q.Kind {
	case "note":
		verifier, err := note.NewVerifier(q.Vkey)
		if err != nil {
			return err
		}
		opened, err := note.Open([]byte(q.Note), note.VerifierList(verifier))
		if err == nil && len(opened.Sigs) != 1 {
			return fmt.Errorf("%d signatures", len(opened.Sigs))
		}
		return err
	case "record":
		leaf := tlog.RecordHash([]byte(q.Record))
		return tlog.CheckRecord(hashes(q.Proof), q.Size, hash(q.Root), q.Index, leaf)
	case "tree":
		return tlog.CheckTree(hashes(q.Proof), q.Size, hash(q.Root), q.OldSize, hash(q.OldRoot))
	}
	return fmt.Errorf("unknown kind %q", q.Kind)
}

func main() {
	lines := json.NewDecoder(os.Stdin)
	for lines.More() {
		var q question
		if err := lines.Decode(&q); err != nil {
			panic(err)
		}
		if err := ask(q); err != nil {
			fmt.Println(err)
		} else {
			fmt.Println("ok")
		}
	}
}
