// Reads an export of the audit log and checks it with software that is not ours: golang.org/x/mod/sumdb/note and sumdb/tlog.
//
// usage: verify EXPORT VKEY [OLD_CHECKPOINT]
//
// Checks the signature on the checkpoint, that every tile leads to the signed root, the inclusion of every record in the file, and
// that the tree is consistent with an older one: OLD_CHECKPOINT if given (its signature is checked too), else half its size.
package main

import (
	"archive/tar"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	if len(os.Args) != 3 && len(os.Args) != 4 {
		fail("usage: verify EXPORT VKEY [OLD_CHECKPOINT]")
	}
	files := read(os.Args[1])
	verifier, err := note.NewVerifier(os.Args[2])
	check("verifier key", err)
	tree := open(files["checkpoint"], verifier)
	hashes := tlog.TileHashReader(tree, &tiles{files})

	root, err := tlog.TreeHash(tree.N, hashes)
	check("tree hash", err)
	if root != tree.Hash {
		fail("the tiles do not give the signed root")
	}

	// Every record of the range: leaf hash, and the proof for the first and the last of each bundle.
	var from, to int64
	_, err = fmt.Sscanf(string(files["range"]), "%d %d\n", &from, &to)
	check("range", err)
	records, proofs := 0, 0
	for first := from / 256 * 256; first < to; first += 256 {
		width := to - first
		if width > 256 {
			width = 256
		}
		bundle := files[name("entries", first/256, width)]
		for index := first; index < first+width; index++ {
			if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
				fail(fmt.Sprintf("record %d is missing", index))
			}
			length := int(binary.BigEndian.Uint16(bundle))
			leaf := tlog.RecordHash(bundle[2 : 2+length])
			bundle = bundle[2+length:]
			stored, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
			check("leaf", err)
			if stored[0] != leaf {
				fail(fmt.Sprintf("record %d was changed", index))
			}
			records++
			if index == first || index == first+width-1 {
				proof, err := tlog.ProveRecord(tree.N, index, hashes)
				check("inclusion proof", err)
				check(fmt.Sprintf("inclusion of record %d", index), tlog.CheckRecord(proof, tree.N, tree.Hash, index, leaf))
				proofs++
			}
		}
		if len(bundle) != 0 {
			fail("bytes that belong to no record")
		}
	}

	old := tlog.Tree{N: (tree.N + 1) / 2}
	if len(os.Args) == 4 {
		text, err := os.ReadFile(os.Args[3])
		check("old checkpoint", err)
		old = open(text, verifier)
	} else if old.N > 0 {
		old.Hash, err = tlog.TreeHash(old.N, hashes)
		check("old tree hash", err)
	}
	if old.N > 0 {
		proof, err := tlog.ProveTree(tree.N, old.N, hashes)
		check("consistency proof", err)
		check("consistency", tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash))
	}
	fmt.Printf("ok size=%d records=%d proofs=%d consistent-with=%d\n", tree.N, records, proofs, old.N)
}

// open checks the note and reads the tree head: origin, size, root.
func open(text []byte, verifier note.Verifier) tlog.Tree {
	opened, err := note.Open(text, note.VerifierList(verifier))
	check("signature on the checkpoint", err)
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		fail("not a checkpoint of " + verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	check("size", err)
	hash, err := base64.StdEncoding.DecodeString(lines[2])
	check("root", err)
	tree := tlog.Tree{N: size}
	if copy(tree.Hash[:], hash) != tlog.HashSize || len(hash) != tlog.HashSize {
		fail("the root is not a hash")
	}
	return tree
}

// tiles serves the files of the export to tlog, which authenticates each of them against the root.
type tiles struct{ files map[string][]byte }

func (t *tiles) Height() int                              { return 8 }
func (t *tiles) SaveTiles(tiles []tlog.Tile, data [][]byte) {}
func (t *tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, tile := range wanted {
		path := name(strconv.Itoa(tile.L), tile.N, int64(tile.W))
		data, found := t.files[path]
		if !found {
			return nil, fmt.Errorf("%s is missing", path)
		}
		out = append(out, data)
	}
	return out, nil
}

// name is the path of C2SP tlog-tiles.
func name(level string, number, width int64) string {
	path := fmt.Sprintf("%03d", number%1000)
	for number >= 1000 {
		number /= 1000
		path = fmt.Sprintf("x%03d/%s", number%1000, path)
	}
	path = "tile/" + level + "/" + path
	if width < 256 {
		path += fmt.Sprintf(".p/%d", width)
	}
	return path
}

func read(path string) map[string][]byte {
	file, err := os.Open(path)
	check("export", err)
	defer file.Close()
	files := map[string][]byte{}
	for archive := tar.NewReader(file); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return files
		}
		check("export", err)
		body, err := io.ReadAll(archive)
		check("export", err)
		files[header.Name] = body
	}
}

func check(what string, err error) {
	if err != nil {
		fail(what + ": " + err.Error())
	}
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}
