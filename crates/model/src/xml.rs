//! What is read out of the small XML documents in which some of AWS's protocols answer. Not a parser: it finds one element.

/// What stands between the tags of the first element of this name, in a document that has it plainly: at most 200 characters,
/// none of which a terminal obeys.
pub fn element(document: &str, name: &str) -> Option<String> {
    let from = document.find(&format!("<{name}>"))? + name.len() + 2;
    let rest = document.get(from..)?;
    let text = rest.get(..rest.find("</")?)?;
    let text = text.strip_prefix("<![CDATA[").and_then(|t| t.strip_suffix("]]>")).unwrap_or(text);
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
    Some(text.replace("&amp;", "&").chars().filter(|c| !c.is_control()).take(200).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_out_of_the_document() {
        let document =
            "<?xml?><Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>";
        assert_eq!(element(document, "Code").as_deref(), Some("NoSuchKey"));
        assert_eq!(element(document, "Message").as_deref(), Some("The specified key does not exist."));
        let marked = "<Error><Message><![CDATA[a < b]]></Message><Code>it&apos;s &amp;lt;</Code></Error>";
        assert_eq!(element(marked, "Message").as_deref(), Some("a < b"));
        assert_eq!(element(marked, "Code").as_deref(), Some("it's &lt;"));
        assert_eq!(element("<Code>x", "Code"), None);
    }
}
