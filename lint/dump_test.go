package lint_test
import ("testing";"os";"fmt")
func TestDump(t *testing.T){ f,_:=os.Create("/tmp/lintdump.txt"); defer f.Close()
 for _,s:=range corpus(t){ for _,x:=range look(s){ fmt.Fprintf(f,"%s %s %s %s: %s (%s)\n",x.Code,s.Name,x.Source.Object(),x.Source.Field,x.Message,x.Fix)}}}
