package main

import (
	"fmt"
	"html"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
)

// kind is what a part of a disk holds, as pictures show it.
type kind int

const (
	hole    kind = iota // nothing anywhere
	zeroed              // zeros that hide what the backing file has
	backing             // data of a backing file, or of a raw image
	changed             // data of the topmost file over a backing file
	kinds
)

// kindOf a region of a disk of so many files.
func kindOf(r region, layers int) kind {
	switch {
	case r.Data && (layers == 1 || r.Depth > 0):
		return backing
	case r.Data:
		return changed
	case layers > 1 && r.Depth < layers-1:
		return zeroed
	}
	return hole
}

// kindNames are the legend, for a COW file and for an image alone.
func kindNames(layers []layer) [kinds]string {
	if len(layers) == 1 {
		return [kinds]string{hole: "hole", backing: "data"}
	}
	return [kinds]string{hole: "hole", zeroed: "zero, over the backing file", backing: "backing file", changed: strings.ToUpper(layers[0].kind) + " file"}
}

// cells divide a range of the disk into parts, and count what each holds.
type cells struct {
	off, n int64
	size   int64 // of a cell
	held   [][kinds]int64
	total  [kinds]int64
}

// newCells makes at most most cells of whole sectors.
func newCells(off, n, most int64) *cells {
	size := max(512, (n+most-1)/most)
	size = (size + 511) / 512 * 512
	return &cells{off: off, n: n, size: size, held: make([][kinds]int64, (n+size-1)/size)}
}

func (p *cells) add(r region, k kind) {
	p.total[k] += r.Length
	for at, end := r.Start-p.off, r.Start-p.off+r.Length; at < end; {
		i := at / p.size
		upto := min(end, (i+1)*p.size)
		p.held[i][k] += upto - at
		at = upto
	}
}

// shows is the kind that a cell is drawn as: what it has most of, but holes only where
// there is nothing else.
func (p *cells) shows(i int) kind {
	best := hole
	for k := zeroed; k < kinds; k++ {
		if n := p.held[i][k]; n > 0 && (best == hole || n >= p.held[i][best]) {
			best = k
		}
	}
	return best
}

const (
	pictureRows = 16
	labelWidth  = 8
)

// Block characters tell the kinds apart without colours, too.
var (
	blocks = [kinds]string{hole: "·", zeroed: "░", backing: "▒", changed: "█"}
	paints = [kinds]string{hole: "\x1b[2m", zeroed: "\x1b[36m", backing: "\x1b[34m", changed: "\x1b[33m"}
)

// drawText draws the disk as wide as the terminal, and a legend.
func drawText(w io.Writer, columns int, layers []layer, off, n int64, regions regionLines) error {
	width := max(1, columns-labelWidth-1)
	p := newCells(off, n, int64(width*pictureRows))
	if err := regions(func(r region) error { p.add(r, kindOf(r, len(layers))); return nil }); err != nil {
		return err
	}
	colours := os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	paint := func(k kind, text string) string {
		if !colours {
			return text
		}
		return paints[k] + text + "\x1b[0m"
	}
	for first := 0; first < len(p.held); first += width {
		var row strings.Builder
		fmt.Fprintf(&row, "%*s ", labelWidth, sizeText(off+int64(first)*p.size))
		for i := first; i < min(first+width, len(p.held)); {
			k, from := p.shows(i), i
			for i < min(first+width, len(p.held)) && p.shows(i) == k {
				i++
			}
			row.WriteString(paint(k, strings.Repeat(blocks[k], i-from)))
		}
		if _, err := fmt.Fprintln(w, row.String()); err != nil {
			return err
		}
	}
	for k, name := range kindNames(layers) {
		if name == "" {
			continue
		}
		file := ""
		if kind(k) == backing && len(layers) > 1 {
			file = "  " + quoted(layers[1].path)
		}
		if _, err := fmt.Fprintf(w, "%s  %s  %s%s\n", paint(kind(k), blocks[k]), sizeText(p.total[k]), name, file); err != nil {
			return err
		}
	}
	return nil
}

// The picture of a page, in its own units.
const (
	svgWidth = 1024
	svgRows  = 48
	svgRow   = 14
	svgTop   = 84
	svgLeft  = 76
)

// drawSVG writes a page of its own: the disk row by row, a legend, and what every part is
// under the pointer.
func drawSVG(c *cli.Context, name, path string, layers []layer, off, n int64, regions regionLines) error {
	p := newCells(off, n, svgWidth*svgRows)
	if err := regions(func(r region) error { p.add(r, kindOf(r, len(layers))); return nil }); err != nil {
		return err
	}
	rows := (len(p.held) + svgWidth - 1) / svgWidth
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">
<title>%s</title>
<style>
svg{background:#fff;color:#222}text{fill:currentColor}.k0{fill:#e4e7eb}.k1{fill:#f2c14e}.k2{fill:#7c9cbf}.k3{fill:#d1495b}
@media (prefers-color-scheme:dark){svg{background:#16181c;color:#ddd}.k0{fill:#2a2e35}}
rect:hover{stroke:currentColor}
</style>
`, svgLeft+svgWidth+12, svgTop+rows*svgRow+12, xmlText(filepath.Base(path)))
	fmt.Fprintf(&b, "<text x=\"12\" y=\"26\" font-size=\"16\">%s</text>\n", xmlText(path))
	fmt.Fprintf(&b, "<text x=\"12\" y=\"44\">%s, bytes %d to %d; a row is %s</text>\n", sizeText(n), off, off+n, sizeText(p.size*svgWidth))
	x := 12
	for k, label := range kindNames(layers) {
		if label == "" {
			continue
		}
		label = fmt.Sprintf("%s: %s", label, sizeText(p.total[k]))
		fmt.Fprintf(&b, "<rect class=\"k%d\" x=\"%d\" y=\"56\" width=\"12\" height=\"12\"/><text x=\"%d\" y=\"66\">%s</text>\n", k, x, x+17, xmlText(label))
		x += 40 + 7*len(label)
	}
	for row := range rows {
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", svgLeft-8, svgTop+row*svgRow+svgRow-3, sizeText(off+int64(row)*svgWidth*p.size))
		end := min(len(p.held), (row+1)*svgWidth)
		for i := row * svgWidth; i < end; {
			k, from := p.shows(i), i
			for i < end && p.shows(i) == k {
				i++
			}
			first, last := off+int64(from)*p.size, min(off+n, off+int64(i)*p.size)
			fmt.Fprintf(&b, "<rect class=\"k%d\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"><title>%s: %s at %d</title></rect>\n",
				k, svgLeft+from%svgWidth, svgTop+row*svgRow, i-from, svgRow-2, kindNames(layers)[k], sizeText(last-first), first)
		}
	}
	b.WriteString("</svg>\n")
	return writeWhole(c, name, func(w io.Writer) error {
		_, err := io.WriteString(w, b.String())
		return err
	})
}

// xmlText is text as a page can hold it: neither controls nor broken UTF-8.
func xmlText(text string) string { return html.EscapeString(quoted(text)) }
