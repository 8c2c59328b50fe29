from keystone.closure.check import check
import time
def test_whole(whole,small):
    t=time.time(); r=check(whole.content()); print(time.time()-t)
    for f in r.findings: print(f)
    m={}
    check(whole.content(),m)
    t=time.time(); r=check(whole.content(),m); print(time.time()-t)
    print(r.questions)
    assert r.complete
    r=check(small.content())
    assert r.complete,r
