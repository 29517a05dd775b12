package debian

import (
	"fmt"
	"strings"
)

// paragraph is one of a control file's: fields, as deb822(5) has them, comments left out.
type paragraph string

// field is the value of a field, lines that continue it joined by line ends; "" where it
// is missing. Names are compared without case.
func (p paragraph) field(name string) string {
	for text := string(p); text != ""; {
		line, rest, _ := strings.Cut(text, "\n")
		if len(line) > len(name) && line[len(name)] == ':' && strings.EqualFold(line[:len(name)], name) {
			var b strings.Builder
			b.WriteString(strings.TrimSpace(line[len(name)+1:]))
			for len(rest) > 0 && (rest[0] == ' ' || rest[0] == '\t') {
				line, rest, _ = strings.Cut(rest, "\n")
				b.WriteByte('\n')
				b.WriteString(strings.TrimSpace(line))
			}
			return b.String()
		}
		text = rest
	}
	return ""
}

// paragraphMax bounds one paragraph, in bytes.
const paragraphMax = 1 << 20

// eachParagraph visits the paragraphs of a file.
func eachParagraph(text string, visit func(paragraph) error) error {
	for text != "" {
		text = strings.TrimLeft(text, "\n")
		p, rest, _ := strings.Cut(text, "\n\n")
		if len(p) > paragraphMax {
			return fmt.Errorf("a paragraph of %d bytes, the limit is %d", len(p), paragraphMax)
		}
		if p != "" {
			if err := visit(paragraph(p)); err != nil {
				return err
			}
		}
		text = rest
	}
	return nil
}
